"""The newest model of a run, kept as a file elsewhere without replacing anyone else's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..storage.files import sha256_of, write_atomically, write_json

RECORD = "published.json"  # in the run's folder: hashes of what it wrote


class PublishedModel:
    """`target`, which is replaced by newer models of the run in folder `run` alone."""

    def __init__(self, run: Path, target: Path) -> None:
        """ValueError where `target` is a file that the run did not write."""
        self.run, self.target = run, target
        if target.exists() and not self._is_ours():
            raise ValueError(
                f"{target} is not a model of the run in {run}, and is kept; choose another name, "
                "or move that file away"
            )

    def _is_ours(self) -> bool:
        digest = sha256_of(self.target)
        models = self.run.glob("*.safetensors")  # a run of version 0.1.0 has no record
        return digest in self._record() or any(sha256_of(model) == digest for model in models)

    def _record(self) -> list[str]:
        try:
            return list(json.loads((self.run / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return []

    def replace(self, model: Path) -> None:
        """Copy `model`, a file of the run, to the target in one step."""
        # recorded first, and never dropped: a kill before the copy leaves an older one in place
        write_json(self.run / RECORD, list(dict.fromkeys([*self._record(), sha256_of(model)])))
        write_atomically(self.target, lambda path: shutil.copyfile(model, path))
