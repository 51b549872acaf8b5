# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Settings in the environment: each has a long variable and a short one, and a misspelt one is found."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from environs import Env

from .declaration import LONG, Setting

__all__ = ["API_TOKEN", "EFFECTS_DATABASE", "Environment"]

#: Before most short variables.
SHORT = "PROCESSING_"

#: The address of the database for `dramatiq-inflight effects`: no setting of the tracker.
EFFECTS_DATABASE: Final = (f"{LONG}EFFECTS_DATABASE", f"{SHORT}EFFECTS_DATABASE")

#: What programs send to the JSON interface of `dramatiq-inflight dashboard`: no setting of the tracker either.
API_TOKEN: Final = (f"{LONG}API_TOKEN", f"{SHORT}API_TOKEN")

#: How alike two names are that are taken for one, from 0 to 1: without their prefix, and whole.
NEAR_STEM, NEAR = 0.8, 0.9

#: Kubernetes tells every pod of a Service in such variables, which begin with the name of the Service.
OF_A_SERVICE = re.compile(r".*(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


class Environment:
    """The environment of this process, as the settings see it.

    Parameters:
      settings: All settings, by name.
    """

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        self._env = Env()
        self._settings = settings

    def variable(self, name: str) -> str:
        """The variable from which a setting comes; empty if none is set."""
        return next((variable for variable in self._settings[name].variables if variable in os.environ), "")

    def read(self, name: str) -> object:
        """The value of a setting for which a variable is set; it is not yet checked."""
        return self._settings[name].value.read(self._env, self.variable(name))

    def warn(self, *, but: Collection[str]) -> None:
        """Warn of variables that likely do not mean what they seem to.  No value is shown: it may be a password.

        Parameters:
          but: Settings that do not come from the environment.
        """
        for name in sorted(self._settings.keys() - but):
            variables = self._settings[name].variables
            if len({os.environ[variable] for variable in variables if variable in os.environ}) > 1:
                long, short = variables
                warnings.warn(
                    f"dramatiq_inflight: the environment variables {long} and {short} are of one setting, and differ; "
                    f"{long} is used. Unset one of them.",
                    RuntimeWarning,
                    stacklevel=4,  # whoever makes the tracker
                )
        for variable, meant in misspelt(self._settings):
            hint = f"Did you mean {meant}?" if meant else "docs/settings.rst has all settings."
            warnings.warn(
                f"dramatiq_inflight: the environment variable {variable} is no setting, and is ignored. {hint}",
                RuntimeWarning,
                stacklevel=4,
            )


def misspelt(settings: Mapping[str, Setting]) -> Iterator[tuple[str, str]]:
    """The variables of this process that are nearly one of the settings', each with the name that was likely meant.

    One with the long prefix is here as well if it is near none, with an empty name: the prefix is this package's.
    """
    pairs = [API_TOKEN, EFFECTS_DATABASE, *(setting.variables for setting in settings.values() if setting.variables)]
    known = {variable for pair in pairs for variable in pair}
    stems = {variable.removeprefix(LONG).removeprefix(SHORT): pair for pair in pairs for variable in pair}
    for variable in sorted(os.environ.keys() - known):
        name = variable.upper()
        prefix = next((prefix for prefix in (LONG, SHORT) if name.startswith(prefix)), "")
        if not prefix:
            near = difflib.get_close_matches(name, known, 1, NEAR)
        elif near := difflib.get_close_matches(name.removeprefix(prefix), stems, 1, NEAR_STEM):
            near = [stems[near[0]][prefix == SHORT]]
        if near or (prefix == LONG and not OF_A_SERVICE.fullmatch(name)):
            yield variable, near[0] if near else ""
