"""What runs at every interpreter start: a finder that waits for `import lm_eval` or `import transformers`.

autoload.py says why it waits for the first, and until when. With transformers, importing this package is enough: the
Auto classes then load compacted models.

The build backend writes this file, as one line, into the wheel's `.pth`. It therefore stands alone, imports nothing
that the interpreter has not loaded already, and must never raise.
"""

import sys


class LmEvalPruneStartup:
    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name in ("lm_eval", "transformers"):
            sys.meta_path.remove(LmEvalPruneStartup)
            try:
                from lm_eval_prune.harness import autoload

                autoload.install()
            except Exception:  # a half-removed package must not break the harness
                pass


sys.meta_path.insert(0, LmEvalPruneStartup)
