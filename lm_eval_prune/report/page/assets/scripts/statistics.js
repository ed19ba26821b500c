// Intervals and p-values of paired differences, as intervals.py, unit_intervals.py, sum_intervals.py, parts.py and
// statistics.py compute them: Tango's score interval of paired proportions, its like over passages and over several
// tasks together, and Student's t. Sources stand there.
// tests/test_page_statistics.py holds the two together.

const Z = 1.959963984540054, CONTINUITY = 3 / 16, LEVEL = 0.05, FEWEST_UNITS = 6, FARTHEST = 37;
const total = (values) => values.reduce((sum, value) => sum + value, 0);

/** Where a function, positive at `far` and negative at `near`, is 0; `near` where it is not negative there. */
function rootBetween(of, far, near) {
  if (of(near) >= 0) return near;
  if (of(far) <= 0) return far;
  for (let round = 0; round < 200 && Math.abs(far - near) > 1e-15 * Math.max(1, Math.abs(near)); round += 1) {
    const middle = (far + near) / 2;
    if (of(middle) > 0) far = middle;
    else near = middle;
  }
  return (far + near) / 2;
}

// -- distributions

/** Logarithm of the gamma function (Lanczos, g = 7). */
function logGamma(x) {
  const terms = [676.5203681218851, -1259.1392167224028, 771.3234287776531, -176.6150291621406, 12.507343278686905, -0.13857109526572012, 9.984369578019572e-6, 1.5056327351493116e-7];
  const t = x + 6.5, series = terms.reduce((sum, term, place) => sum + term / (x + place), 0.9999999999998099);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(series);
}

/** A continued fraction 1 / (1 + a1 / (1 + a2 / ...)) by Lentz's method. */
function continued(term) {
  const tiny = 1e-300;
  let value = 1, above = 1, below = 0;
  for (let place = 1; place < 5000; place += 1) {
    const a = term(place);
    below = 1 / (1 + a * below || tiny);
    above = 1 + a / above || tiny;
    value *= above * below;
    if (Math.abs(above * below - 1) < 1e-16) break;
  }
  return 1 / value;
}

/** The share of the beta distribution below x, by its continued fraction. */
function betaBelow(x, a, b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - betaBelow(1 - x, b, a);
  const front = Math.exp(a * Math.log(x) + b * Math.log1p(-x) + logGamma(a + b) - logGamma(a) - logGamma(b)) / a;
  return front * continued((place) => {
    const m = place >> 1;
    return place % 2 ? (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1)) : (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
  });
}

/** The upper share of the gamma distribution, Q(a, x). */
function gammaAbove(a, x) {
  const front = Math.exp(-x + a * Math.log(x) - logGamma(a));
  if (x < a + 1) {
    let term = 1 / a, sum = term;
    for (let n = 1; n < 1000 && Math.abs(term) > 1e-17 * Math.abs(sum); n += 1) sum += (term *= x / (a + n));
    return 1 - front * sum;
  }
  let b = x + 1 - a, c = 1e300, d = 1 / b, value = d;
  for (let n = 1; n < 1000; n += 1) {
    const k = -n * (n - a);
    b += 2;
    d = 1 / (k * d + b);
    c = b + k / c;
    value *= d * c;
    if (Math.abs(d * c - 1) < 1e-16) break;
  }
  return front * value;
}

/** The normal distribution's share beyond z on one side. */
function normalBeyond(z) {
  return z <= 0 ? (z === 0 ? 0.5 : 1 - normalBeyond(-z)) : gammaAbove(0.5, (z * z) / 2) / 2;
}

/** The quantile of Student's t at the level of z normal standard errors. */
function studentQuantile(freedom, z) {
  if (!Number.isFinite(freedom)) return z;
  const level = normalBeyond(z), beyond = (logT) => {
    const t = Math.exp(logT);
    return betaBelow(freedom / (freedom + t * t), freedom / 2, 0.5) / 2;
  };
  const logT = rootBetween((at) => level - beyond(at), 230, -40); // at most 1e100
  return Math.min(Math.exp(logT), 1e100);
}

// -- paired changes of outcomes between 0 and 1

function byUnit(values, units) {
  if (!units) return { sums: [...values], sizes: values.map(() => 1) };
  const number = Math.max(...new Set(units)) + 1, sums = Array(number).fill(0), sizes = Array(number).fill(0);
  values.forEach((value, at) => { sums[units[at]] += value; sizes[units[at]] += 1; });
  return { sums, sizes };
}

/** The variance of the mean change of documents by themselves, if it were `difference` in expectation. */
function varianceAt({ documents: n, gained, lost }, difference) {
  const linear = (2 * n - gained + lost) * difference - gained - lost, constant = -lost * difference * (1 - difference);
  const chance = (Math.sqrt(Math.max(linear * linear - 8 * n * constant, 0)) - linear) / (4 * n);
  return Math.max(2 * chance + difference * (1 - difference), 0) / n;
}

/** The differences that are z standard errors from the mean change, below and above. */
function scoreLimits(changes, z) {
  const mean = (changes.gained - changes.lost) / changes.documents;
  return [-1, 1].map((side) => rootBetween(
    (difference) => (difference - mean) * side - CONTINUITY / changes.documents - z * Math.sqrt(varianceAt(changes, difference)),
    side, Math.min(1, Math.max(-1, mean + side * 1e-10)),
  ));
}

function scoreP(changes) {
  const mean = (changes.gained - changes.lost) / changes.documents, gap = Math.max(Math.abs(mean) - CONTINUITY / changes.documents, 0);
  return gap === 0 ? 1 : 2 * normalBeyond(gap / Math.sqrt(varianceAt(changes, 0)));
}

// -- the same of documents that share passages, or as means over draws (unit_intervals.py)

/** A difference -> [how far above it the mean change is, corrected for continuity; its standard error there]. */
function tested({ sums, sizes, weights, number }) {
  const mean = (values) => total(values.map((value, at) => weights[at] * value));
  const size = mean(sizes), typical = mean(sizes.map((m) => m * m)) / size, change = mean(sums) / size;
  const correction = (CONTINUITY * typical) / (number * size);
  return (difference) => {
    const gaps = sums.map((sum, at) => sum - sizes[at] * difference);
    const lost = Math.max(typical * (1 + difference), -gaps.reduce((least, gap) => Math.min(least, gap)), 1e-10);
    return [change - difference - correction, Math.sqrt(tiltedVariance(gaps, weights, lost) / number) / size];
  };
}

function lowerLimit(kinds, z) {
  const at = tested(kinds), size = total(kinds.sizes.map((m, place) => kinds.weights[place] * m));
  const mean = total(kinds.sums.map((sum, place) => kinds.weights[place] * sum)) / size;
  return Math.max(rootBetween((difference) => {
    const [gap, error] = at(difference);
    return gap - z * error;
  }, 1e-10 - 1, Math.max(mean - 1e-10, 1e-10 - 1)), -1);
}

function mirrored(kinds) {
  return { ...kinds, sums: kinds.sums.map((sum) => -sum) };
}

function unitLimits(kinds, z) {
  return [lowerLimit(kinds, z), -lowerLimit(mirrored(kinds), z)];
}

function unitP(kinds) {
  const mean = total(kinds.sums.map((sum, place) => kinds.weights[place] * sum));
  const [gap, error] = tested(mean > 0 ? kinds : mirrored(kinds))(0);
  return gap <= 0 ? 1 : 2 * normalBeyond(gap / error);
}

/** Units of the same sum and size are one, with their share as weight: there are few kinds of thousands. */
function alikeTogether({ sums, sizes }) {
  const kinds = new Map();
  sums.forEach((sum, at) => {
    const kind = `${sum} ${sizes[at]}`;
    kinds.set(kind, { sum, size: sizes[at], count: (kinds.get(kind)?.count ?? 0) + 1 });
  });
  const all = [...kinds.values()];
  return { sums: all.map((one) => one.sum), sizes: all.map((one) => one.size), weights: all.map((one) => one.count / sums.length), number: sums.length };
}

/** E[gap^2] under the most likely distribution over the gaps and -lost whose mean is 0; their own is above 0. */
function tiltedVariance(gaps, weights, lost) {
  const chances = (tilt) => gaps.map((gap, at) => weights[at] / Math.max(1 + tilt * gap, 1e-300));
  const mean = (tilt) => total(chances(tilt).map((chance, at) => chance * gaps[at]));
  let tilt = 1 / lost, missed = 0;
  if (mean(tilt) >= 0) missed = Math.max(1 - total(chances(tilt)), 0);
  else tilt = tiltOf(gaps, weights, mean, tilt);
  return total(chances(tilt).map((chance, at) => chance * gaps[at] ** 2)) + missed * lost ** 2;
}

/** Where the mean of the tilted gaps is 0, by Newton's steps within bounds. */
function tiltOf(gaps, weights, mean, most) {
  let low = 0, high = most, tilt = 0;
  for (let round = 0; round < 60; round += 1) {
    const here = mean(tilt);
    if (here > 0) low = tilt;
    else high = tilt;
    const step = tilt + here / total(gaps.map((gap, at) => weights[at] * (gap / Math.max(1 + tilt * gap, 1e-300)) ** 2));
    const following = step > low && step < high ? step : (low + high) / 2;
    const close = Math.abs(following - tilt) <= 1e-10 * following;
    tilt = following;
    if (close) break;
  }
  return tilt;
}

// -- weighted sums of tasks (sum_intervals.py): what they have in common is a multiplier of their tilts

/** A multiplier's logarithm -> the distance from the sum seen, the same corrected for continuity, its standard error. */
function tilted(tasks) {
  const known = tasks.map(([share, { sums, sizes, weights, number }]) => {
    const mean = (values) => total(values.map((value, at) => weights[at] * value)), size = mean(sizes);
    return { share, sums, sizes, weights, typical: mean(sizes.map((m) => m * m)) / size, documents: number * size, number, mean: mean(sums) / size };
  });
  const spread = (task) => (task.share ** 2 * task.number) / task.documents ** 2, step = (task) => (task.share * task.typical) / task.documents;
  const seen = total(known.map((task) => spread(task) * total(task.sums.map((sum, at) => task.weights[at] * (sum - task.sizes[at] * task.mean) ** 2))));
  const at = (logarithm) => {
    let distance = 0, together = 0, steps = 0;
    for (const task of known) {
      const tilt = (Math.exp(logarithm) * task.share) / task.documents, [difference, lost] = tiltedDifference(task, tilt);
      const gaps = task.sums.map((sum, place) => sum - task.sizes[place] * difference);
      const chances = gaps.map((gap, place) => task.weights[place] / Math.max(1 + tilt * gap, 1e-300));
      const missed = lost ? Math.max(1 - total(chances), 0) / tilt ** 2 : 0;
      const variance = spread(task) * (total(chances.map((chance, place) => chance * gaps[place] ** 2)) + missed);
      distance += task.share * (task.mean - difference);
      together += variance;
      steps += variance * step(task);
    }
    const correction = CONTINUITY * (together > 0 ? steps / together : Math.max(...known.map(step)));
    return [distance, distance - correction, Math.sqrt(together)];
  };
  return { at, start: -Math.log(Math.sqrt(seen + Math.max(...known.map(step)) ** 2)) };
}

/** The mean change of a task at a tilt, and whether a unit lost whole has a chance there. */
function tiltedDifference({ sums, sizes, weights, typical, mean }, tilt) {
  const room = sums.reduce((least, sum, at) => Math.min(least, (sum + (1 - weights[at]) / tilt) / sizes[at]), Infinity);
  const most = Math.min(1 / (tilt * typical) - 1, room), excess = (difference) => {
    let value = 0, slope = 0;
    sums.forEach((sum, at) => {
      const gap = sum - sizes[at] * difference, scaled = 1 / Math.max(1 + tilt * gap, 1e-300);
      value += weights[at] * scaled * gap;
      slope -= weights[at] * scaled * scaled * sizes[at];
    });
    return [value, slope];
  };
  if (most < mean && excess(most)[0] >= 0) return [most, true];
  let low = -1, high = Math.min(mean, most), difference = high;
  for (let round = 0; round < 80; round += 1) {
    const [value, slope] = excess(difference), step = difference - value / slope;
    if (value >= 0) low = difference;
    if (value <= 0) high = difference;
    const following = step >= low && step <= high ? step : (low + high) / 2, close = Math.abs(following - difference) <= 1e-13;
    difference = following;
    if (close) break;
  }
  return [difference, false];
}

/** Where a function of a multiplier's logarithm, negative far below, is 0. */
function multiplierAt(of, start) {
  let near = start, far = start, step = 0.1;
  for (let round = 0; round < 30 && of(far) <= 0; round += 1, step = Math.min(2 * step, 6.4)) [near, far] = [far, far + step];
  for (let round = 0; round < 30 && of(near) > 0; round += 1, step = Math.min(2 * step, 6.4)) [near, far] = [near - step, near];
  return rootBetween(of, far, near);
}

/** [weight, kinds] each -> how far below the sum of their mean changes the limit is, z standard errors away. */
function sumReach(tasks, z) {
  const { at, start } = tilted(tasks);
  return at(multiplierAt((logarithm) => {
    const [, gap, error] = at(logarithm);
    return gap - z * error;
  }, start + Math.log(z)))[0];
}

function sumP(tasks, value) {
  const { at, start } = tilted(value > 0 ? tasks : tasks.map(([share, kinds]) => [share, mirrored(kinds)]));
  const [, gap, error] = at(multiplierAt((logarithm) => at(logarithm)[0] - Math.abs(value), start));
  return gap <= 0 ? 1 : 2 * normalBeyond(gap / error);
}

/** The smallest loss that tasks can exclude where nothing changes; [weight, units of equal size that tell as much] each. */
function leastSum(tasks) {
  return sumReach(tasks.map(([share, units]) => [share, { sums: [0], sizes: [1], weights: [1], number: units }]), Z);
}

// -- parts: what one task's documents say

/** The mean of changes by document, a list a draw; `seeds` are the draws' [mask, examples]. */
function pairedPart(draws, seeds, units, bounded) {
  const documents = draws[0].length, mean = draws[0].map((_, at) => total(draws.map((draw) => draw[at])) / draws.length);
  const changed = mean.filter((_, at) => draws.some((draw) => draw[at] !== 0)).length / documents;
  const common = { value: total(mean) / documents, changed, draws: drawsOf(draws, seeds, units), documents };
  if (!bounded) {
    const { sums, sizes } = byUnit(mean, units), squares = total(sums.map((sum, at) => (sum - common.value * sizes[at]) ** 2));
    const freedom = sums.length < 2 ? 1 : sums.length - 1;
    const error = sums.length < 2 ? Infinity : Math.sqrt((squares * sums.length) / (sums.length - 1)) / documents;
    const limits = (z) => {
      const reach = studentQuantile(freedom, z) * error;
      return [common.value - reach, common.value + reach];
    };
    return { ...common, limits, least: freedom + 1 >= FEWEST_UNITS ? 0 : Infinity };
  }
  if (!units && draws.length === 1 && mean.every((value) => value === 0 || Math.abs(value) === 1)) {
    const changes = { documents, gained: mean.filter((value) => value > 0).length, lost: mean.filter((value) => value < 0).length };
    const kinds = alikeTogether(byUnit(mean, null));
    return { ...common, kinds, limits: (z) => scoreLimits(changes, z), p: () => scoreP(changes), units: documents };
  }
  const kinds = alikeTogether(byUnit(mean, units)), squares = total(kinds.sizes.map((m, at) => kinds.weights[at] * m * m)) * kinds.number;
  return { ...common, kinds, limits: (z) => unitLimits(kinds, z), p: () => unitP(kinds), units: documents ** 2 / squares };
}

/** What several draws say: the value of each, and the variance of documents that answer differently in every draw. */
function drawsOf(draws, seeds, units) {
  if (draws.length < 2) return { values: [], residual: 0 };
  const values = draws.map((draw, at) => ({ seeds: seeds[at], value: total(draw) / draw.length }));
  const mean = total(values.map((one) => one.value)) / values.length, split = draws.map((draw) => byUnit(draw, units));
  const number = split[0].sums.length;
  let squares = 0;
  for (let unit = 0; unit < number; unit += 1) {
    const middle = total(split.map(({ sums }) => sums[unit])) / draws.length;
    split.forEach(({ sums, sizes }, at) => { squares += (sums[unit] - middle - (values[at].value - mean) * sizes[unit]) ** 2; });
  }
  return { values, residual: (number * squares) / Math.max((number - 1) * (draws.length - 1), 1) / draws.length / draws[0].length ** 2 };
}

// -- weighted sums of parts

/** (number of draws, variance of the mean over them) of random masks and of few-shot examples. */
function levelsOf(parts) {
  return [0, 1].map((factor) => factorOf(parts, factor)).filter(Boolean);
}

function factorOf(parts, factor) {
  const series = [];
  for (const [weight, part] of parts) {
    const levels = new Map();
    for (const { seeds, value } of part.draws.values) levels.set(seeds[factor], [...(levels.get(seeds[factor]) ?? []), value]);
    if (levels.size > 1) series.push(new Map([...levels].map(([level, found]) => [level, (weight * total(found)) / found.length])));
  }
  if (!series.length) return null;
  const keys = [...series[0].keys()], variance = (values) => {
    const mean = total(values) / values.length;
    return total(values.map((value) => (value - mean) ** 2)) / (values.length - 1) / values.length;
  };
  if (series.every((found) => found.size === keys.length && keys.every((key) => found.has(key)))) {
    return [keys.length, variance(keys.map((key) => total(series.map((found) => found.get(key)))))];
  }
  return [Math.min(...series.map((found) => found.size)), total(series.map((found) => Math.sqrt(variance([...found.values()])))) ** 2];
}

/** What a weighted sum of parts, [weight, part] each with positive weights, says of a difference. */
function estimate(parts) {
  const value = total(parts.map(([weight, part]) => weight * part.value)), levels = levelsOf(parts);
  const paired = parts.filter(([, part]) => part.kinds), others = parts.filter(([, part]) => !part.kinds);
  const together = paired.map(([weight, part]) => [weight, part.kinds]), turned = together.map(([weight, kinds]) => [weight, mirrored(kinds)]);
  const residual = total(parts.map(([weight, part]) => weight ** 2 * part.draws.residual));
  const alone = (z, side) => (paired.length === 1 ? parts : others).map(([weight, part]) => weight * (part.limits(z)[side] - part.value));
  const reach = (z, side) => {
    const reaches = [...alone(z, side), ...(paired.length > 1 ? [sumReach(side ? turned : together, z)] : [])];
    // What documents and draws vary together is in the variance between draws already.
    const documents = Math.max(total(reaches.map((one) => one * one)) / (z * z) - residual, 0);
    const sources = [[z, documents], ...levels.map(([number, own]) => [studentQuantile(number - 1, z), own])];
    const variance = total(sources.map(([, own]) => own)), power = levels.some(([number]) => number === 2) ? 2 : 1;
    return variance ? total(sources.map(([quantile, own]) => quantile ** power * (own / variance))) ** (1 / power) * Math.sqrt(variance) : 0;
  };
  const plain = others.length || levels.length ? null : () => (paired.length === 1 ? paired[0][1].p() : sumP(together, value));
  const least = paired.length ? leastSum(paired.map(([weight, part]) => [weight, part.units])) : 0;
  return {
    value, low: value - reach(Z, 0), high: value + reach(Z, 1), p: pOf(value, plain, reach),
    least: Math.hypot(least, ...others.map(([weight, part]) => weight * part.least)),
    changed: total(parts.map(([weight, part]) => weight * part.changed)),
    documents: total(parts.map(([, part]) => part.documents)),
  };
}

/** Two-sided p-value that the value is 0: the level at which the interval reaches it. */
function pOf(value, plain, reach) {
  if (value === 0) return 1;
  if (plain) return Math.max(plain(), 2.2250738585072014e-308);
  const side = value > 0 ? 0 : 1, beyond = (z) => reach(z, side) - Math.abs(value);
  if (beyond(FARTHEST) <= 0) return 2.2250738585072014e-308;
  return Math.max(2 * normalBeyond(rootBetween(beyond, FARTHEST, 1e-9)), 2.2250738585072014e-308);
}

/** What is said of a difference of two rows, by the rules of `verdict_of` in averages.py, its p-value not corrected. */
function verdictOf(found, higher, margin) {
  const gain = higher ? found.value : -found.value, low = higher ? found.low : -found.high;
  const tooFew = margin > 0 && found.least > margin;
  if (found.p < LEVEL && gain > 0) return "better";
  if (low >= -margin && !tooFew) return found.changed === 0 ? "identical" : "within the margin";
  if (found.p < LEVEL) return "worse";
  return tooFew ? "too few documents" : "not shown";
}
