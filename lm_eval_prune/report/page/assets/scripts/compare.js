// Two rows compared with each other.

async function showComparison(place) { place.hidden = true; }
