"""Another Metaflow, or another OpenTelemetry, than the one that is installed: a name less, or its source edited.

Written as `sitecustomize.py` beside a flow (`beside`), so that launcher and tasks have it before anything else:

- HIDE=module.Class.name: our code does not find that name, everybody else does, as after a rename that Metaflow
  itself has gone along with. HIDE_ERROR is what our code meets instead, an AttributeError by default.
- EDIT=[[module, pattern, replacement], …] as JSON: the module is compiled from its source, so edited.
"""

import builtins
import importlib.machinery
import json
import os
import re
import sys
import types
from pathlib import Path


def beside(folder: Path, hide: str = "", error: str = "AttributeError", edit: object = ()) -> dict[str, str]:
    """Write this module where the processes of a flow find it, and the environment that they need."""
    (folder / "sitecustomize.py").write_text(Path(__file__).read_text())
    return {"PYTHONPATH": str(folder), "HIDE": hide, "HIDE_ERROR": error, "EDIT": json.dumps(edit)}


def _is_ours() -> bool:
    return sys._getframe(2).f_globals.get("__name__", "").startswith("otel_metaflow")


def _error(name: str) -> Exception:
    return getattr(builtins, os.environ["HIDE_ERROR"])(f"no {name} in this version")


def _hiding(kind: type, name: str) -> dict:
    """Attributes of a subclass of `kind` whose instances have no `name`, as far as our code can see."""
    find = kind.__getattribute__

    def get(self, attribute):
        if attribute == name and _is_ours():
            raise _error(name)
        return find(self, attribute)

    return {"__getattribute__": get}


def _hide(module: types.ModuleType, path: list[str]) -> None:
    *owners, name = path
    owner = module
    for each in owners:
        owner = vars(owner).get(each)
        if not isinstance(owner, type):
            return
    if owner is module:
        if name in vars(module):
            module.__class__ = type("Module", (type(module),), _hiding(type(module), name))
    elif name.startswith("__"):
        method = getattr(owner, name)

        def call(self, *args):
            if _is_ours():
                raise _error(name)
            return method(self, *args)

        setattr(owner, name, call)
    else:
        if isinstance(vars(owner).get(name), types.FunctionType):
            setattr(owner, name, _Method(name, vars(owner)[name]))
        owner.__getattribute__ = _hiding(owner, name)["__getattribute__"]


class _Method:
    """A method that our code does not find, on the class neither."""

    def __init__(self, name: str, function: types.FunctionType) -> None:
        self._name, self._function = name, function

    def __get__(self, instance, owner=None):
        if _is_ours():
            raise _error(self._name)
        return self._function.__get__(instance, owner)


def _changed(module: types.ModuleType) -> None:
    hidden = os.environ.get("HIDE", "")
    if hidden.startswith(module.__name__ + "."):
        _hide(module, hidden[len(module.__name__) + 1 :].split("."))


class _Changes:
    """A finder that finds nothing itself, and changes the modules that others find."""

    def __init__(self) -> None:
        self._edits = json.loads(os.environ.get("EDIT") or "[]")
        self._looking = False

    def find_spec(self, name, path=None, target=None):
        edits = [edit for edit in self._edits if edit[0] == name]
        if self._looking or not (edits or os.environ.get("HIDE", "").startswith(name + ".")):
            return None
        self._looking = True
        try:
            # Those before this one may have asked it, and would do what they do a second time.
            others = sys.meta_path[sys.meta_path.index(self) + 1 :]
            spec = next(filter(None, (each.find_spec(name, path, target) for each in others)), None)
        finally:
            self._looking = False
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            execute = spec.loader.exec_module

            def exec_module(module):
                if edits:
                    source = spec.loader.get_source(name)
                    for _, pattern, replacement in edits:
                        source, count = re.subn(pattern, replacement, source)
                        assert count, f"{name} holds no {pattern}"
                    exec(compile(source, spec.origin, "exec"), module.__dict__)
                else:
                    execute(module)
                _changed(module)

            spec.loader.exec_module = exec_module
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _Changes())
    for _module in list(sys.modules.values()):
        _changed(_module)
