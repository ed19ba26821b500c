"""What runs at every interpreter start: a finder that sees lm_eval or transformers asked for.

autoload.py says why the first, and until when. With transformers, importing this package is enough: the Auto classes
then load compacted models.

The build backend writes this file, as one line, into the wheel's `.pth`. It therefore stands alone, imports nothing
that the interpreter has not loaded already, and must never raise. It finds nothing itself and never steps aside: each
time a module of the harness is looked for, in whatever thread, or any module once the harness is there, it makes sure
that the watch of autoload.py is, too.
"""

import sys


class LmEvalPruneStartup:
    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        try:
            if (
                name in ("lm_eval", "transformers")
                or name.startswith("lm_eval.")
                or "lm_eval.api.registry" in sys.modules
            ):
                from lm_eval_prune.harness import autoload

                autoload.install(name)
        except Exception:  # a half-removed package must not break the harness
            pass


if not any(getattr(finder, "__name__", "") == "LmEvalPruneStartup" for finder in sys.meta_path):
    sys.meta_path.insert(0, LmEvalPruneStartup)
if "lm_eval.api.registry" in sys.modules:  # where site-packages are added to an interpreter that has begun long ago
    LmEvalPruneStartup.find_spec("")
