"""A study: proposes settings (optuna's TPE), prunes trials, holds a budget, and goes on after it was killed.

A proposal depends on the seed, its number and the trials before it alone, so a study that was killed and
continued proposes what an uninterrupted one would.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import provenance
from jaxrec.tuning import records
from jaxrec.tuning.budget import Limits
from jaxrec.tuning.progress import Progress
from jaxrec.tuning.records import Record
from jaxrec.tuning.space import Setting, Space

REPEATS = 50  # proposals in a row that bring nothing new, after which the space counts as searched

# (settings of each proposal, progress) -> None; shows every epoch to the progress
Evaluate = Callable[[Sequence[Mapping[str, Any]], Progress], None]


def optuna() -> Any:
    """The library. Raises ImportError that says how to install it."""
    try:
        import optuna as library
    except ImportError:
        raise ImportError("a sweep needs optuna: pip install 'jaxrec[sweep]'") from None
    library.logging.set_verbosity(library.logging.WARNING)
    return library


class Study:
    """The trials of one row of a table.

    path: its file, which is continued if it is there. identity: what makes it this study (settings that are
    not searched, seeds, data), in JSON types. numbers: settings in which trials that train side by side may
    differ. at_once: how many do. first: settings of the first trial, where the space contains them. check:
    raises ValueError for settings that cannot be trained together.
    """

    def __init__(
        self,
        space: Space,
        *,
        path: str | Path,
        identity: Mapping[str, Any],
        metric: str,
        limits: Limits,
        lower_is_better: bool = False,
        num_epochs: int = 1,
        numbers: Sequence[str] = (),
        at_once: int = 1,
        first: Mapping[str, Any] | None = None,
        check: Callable[[Mapping[str, Any]], Any] = lambda settings: None,
        accept_changed_code: bool = False,
    ) -> None:
        self.space, self.path, self.limits, self.check = space, Path(path), limits, check
        self.numbers, self.at_once = tuple(numbers), at_once if numbers else 1
        self.lower_is_better, self.first = lower_is_better, dict(first or {})
        self.library = optuna()
        self.identity = {
            **identity,
            "metric": metric,
            "lower_is_better": lower_is_better,
            "space": space.as_json(),
            "numbers": list(self.numbers),
            "at_once": self.at_once,
            "first": records.as_json(self.first),
            "library": f"optuna {importlib.metadata.version('optuna')}",
        }
        self.distributions = {name: self._distribution(s) for name, s in space.settings.items()}
        self.study = self.library.create_study(
            study_name="study",
            direction="minimize" if lower_is_better else "maximize",
            pruner=self._pruner(num_epochs),
        )
        stored = records.read(self.path, self.identity, accept_changed_code=accept_changed_code)
        self.made_by = stored.made_by
        if not self.made_by or provenance.code_differences(self.made_by[-1], provenance.manifest()):
            self.made_by.append(provenance.manifest())
        self.records: list[Record] = []
        stopped = [record.group for record in stored.trials if record.state == "stopped"]
        for record in stored.trials:
            if stopped and record.number >= stopped[0] and stored.limits != limits._asdict():
                break  # the group goes on from its checkpoint
            self._restore(record)

    def run(self, evaluate: Evaluate) -> Record:
        """Trains until a limit is reached, and returns the complete trial of the best validation value.

        Raises:
          ValueError: no trial was completed within the limits.
        """
        while (ended := self._ended()) is None:
            group = self._propose_group()
            if group:
                progress = Progress(
                    [trial for trial, _ in group],
                    epochs_left=self._epochs_left(),
                    seconds_left=self._seconds_left(),
                )
                evaluate([settings for _, settings in group], progress)
                for (trial, settings), record in zip(group, progress.records(), strict=True):
                    self._tell(trial, settings, record)
            self._write(None)
        self._write(ended)
        chosen = records.choose(self.records, self.lower_is_better)
        if chosen is None:
            states = ", ".join(sorted({record.state for record in self.records})) or "no trial"
            raise ValueError(
                f"{self.path}: no trial was completed ({states}); give more trials or a larger budget"
            )
        return chosen

    def num_trained(self) -> int:
        """The number of trials that spent something."""
        return sum(record.state in records.TRAINED for record in self.records)

    def settings_of(self, record: Record) -> dict[str, Any]:
        """The settings of a trial, in the types of their fields."""
        return self._decode(record.optuna["params"])

    # --- limits ---

    def _ended(self) -> str | None:
        """The limit that is reached, None if none is."""
        last = [record.state in records.TRAINED for record in self.records[-REPEATS:]]
        if self.limits.trials is not None and self.num_trained() >= self.limits.trials:
            return "trials"
        stopped = any(record.state == "stopped" for record in self.records)
        if stopped or self._epochs_left() < 1 or self._seconds_left() <= 0:
            return "budget"
        if len(last) == REPEATS and not any(last):
            return "space"
        return None

    def _epochs_left(self) -> float:
        epochs = np.inf if self.limits.epochs is None else self.limits.epochs
        return float(epochs - sum(record.epochs for record in self.records))

    def _seconds_left(self) -> float:
        seconds = np.inf if self.limits.minutes is None else 60.0 * self.limits.minutes
        return float(seconds - sum(record.seconds for record in self.records))

    # --- proposals ---

    def _propose_group(self) -> list[tuple[Any, dict[str, Any]]]:
        """Trials that differ in `numbers` alone, with their settings; none if what is proposed is not new."""
        first = self._propose({})
        if first is None:
            return []
        group = [first]
        fixed = {name: value for name, value in first[0].params.items() if name not in self.numbers}
        most = min(self.at_once, self._epochs_left())
        if self.limits.trials is not None:
            most = min(most, self.limits.trials - self.num_trained())
        attempts = 0
        while len(group) < most and attempts < REPEATS:
            attempts += 1
            more = self._propose(fixed, [settings for _, settings in group])
            if more is not None:
                group.append(more)
        return group

    def _propose(
        self, fixed: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Any, dict[str, Any]] | None:
        """A trial and its settings; None, and a record, if they are not new or are refused."""
        number = len(self.study.get_trials(deepcopy=False))
        seed = int(np.random.SeedSequence([self.space.seed, number]).generate_state(1)[0])
        self.study.sampler = self.library.samplers.TPESampler(seed=seed)
        if not fixed and number == 0 and self._contains(self.first):
            fixed = self._encode(self.first)
        if fixed:
            self.study.enqueue_trial(dict(fixed))
        trial = self.study.ask(self.distributions)
        settings = self._decode(trial.params)
        known = [dict(r.settings) for r in self.records if r.state in records.TRAINED]
        if records.as_json(settings) in [*known, *map(records.as_json, others)]:
            self._skip(trial, Record(number, settings, "repeat"))
            return None
        try:
            self.check(settings)
        except ValueError as error:
            self._skip(trial, Record(number, settings, "refused", reason=str(error)))
            return None
        return trial, settings

    def _skip(self, trial: Any, record: Record) -> None:
        self.study.tell(trial, state=self.library.trial.TrialState.FAIL)
        self._add(record)

    def _contains(self, settings: Mapping[str, Any]) -> bool:
        return bool(settings) and all(s.contains(settings.get(n)) for n, s in self.space.settings.items())

    def _tell(self, trial: Any, settings: Mapping[str, Any], record: Record) -> None:
        if record.state == "complete":
            self.study.tell(trial, record.value)
        else:
            self.study.tell(trial, state=self.library.trial.TrialState.PRUNED)
        self._add(dataclasses.replace(record, settings=settings))

    # --- the library's trials, and ours ---

    def _add(self, record: Record) -> None:
        frozen = self.study.get_trials(deepcopy=False)[record.number]
        kept = {
            "state": frozen.state.name,
            "value": frozen.value,
            "params": frozen.params,
            "reports": [[step, value] for step, value in frozen.intermediate_values.items()],
            "attributes": dict(frozen.system_attrs),
        }
        made = dataclasses.replace(record, settings=records.as_json(record.settings), optuna=kept)
        self.records = sorted([*self.records, made], key=lambda r: r.number)

    def _restore(self, record: Record) -> None:
        kept = record.optuna
        self.study.add_trial(
            self.library.trial.create_trial(
                state=self.library.trial.TrialState[kept["state"]],
                value=kept["value"],
                params=dict(kept["params"]),
                distributions={name: self.distributions[name] for name in kept["params"]},
                intermediate_values={int(step): value for step, value in kept["reports"]},
                system_attrs=dict(kept["attributes"]),
            )
        )
        self.records.append(record)

    def _write(self, ended: str | None) -> None:
        limits = dict(self.limits._asdict())
        records.write(
            self.path, self.identity, self.records, limits=limits, ended=ended, made_by=self.made_by
        )

    def _distribution(self, setting: Setting) -> Any:
        made = self.library.distributions
        if setting.kind == "choice":
            return made.CategoricalDistribution(list(range(len(setting.choices))))
        if setting.kind == "int":
            return made.IntDistribution(int(setting.low), int(setting.high), log=setting.log)
        return made.FloatDistribution(setting.low, setting.high, log=setting.log)

    def _pruner(self, num_epochs: int) -> Any:
        if self.space.pruner == "median":
            return self.library.pruners.MedianPruner(n_startup_trials=5)
        if self.space.pruner == "hyperband" and num_epochs > 1:
            return self.library.pruners.HyperbandPruner(max_resource=num_epochs)
        return self.library.pruners.NopPruner()

    def _decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Settings from the library's parameters, in which a choice is its number."""
        settings = self.space.settings
        return {
            name: settings[name].choices[params[name]] if settings[name].kind == "choice" else params[name]
            for name in settings
        }

    def _encode(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The library's parameters of settings, in the space's order."""
        return {
            name: s.choices.index(settings[name]) if s.kind == "choice" else settings[name]
            for name, s in self.space.settings.items()
        }
