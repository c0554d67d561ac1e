"""`@otel`, as small as possible: Metaflow imports this module in every process of every flow.

It may only import the standard library and Metaflow. Its hooks pass their arguments on to the launcher's or the task's
part of `otel_metaflow`, which is imported when they are called.
"""

import importlib
import os
import sys
from collections.abc import Mapping

from metaflow.decorators import StepDecorator
from metaflow.exception import MetaflowException

_LOG_SOURCES = ("stdout", "stderr", "logging")
_ATTRIBUTE_TYPES = (str, int, float, bool)
# Commands of Metaflow whose tasks run here, unless a decorator sends them elsewhere.
_RUN_COMMANDS = ("run", "resume", "spin")

# What came with Metaflow's code package (otel_metaflow/launcher/code_package.py). Last on the path: where
# otel-metaflow is installed that is used, and nothing of the user's is hidden.
_CARRIED = os.path.join(os.path.abspath(__file__).rsplit(os.sep, 4)[0], "otel-metaflow")
if os.path.isdir(_CARRIED) and sys.version_info >= (3, 8) and _CARRIED not in sys.path:
    sys.path.append(_CARRIED)


class OtelDecorator(StepDecorator):
    """
    Exports OpenTelemetry logs, a span and metrics for each attempt of this step.

    Set the endpoint by the standard `OTEL_EXPORTER_OTLP_*` environment variables. Without an
    endpoint nothing is exported; `otel-metaflow view FLOW/RUN` shows the run from its journal.

    Parameters
    ----------
    attributes : Dict[str, Union[str, int, float, bool]], optional
        Attributes added to all telemetry of the step. They are stored in plain text: never put
        secrets here.
    logs : Union[str, List[str]], optional
        What becomes log records: any of "stdout", "stderr" and "logging". Default: all of them.
    foreach_value : bool, optional
        Whether to record the value of a foreach, cut to 256 characters, and not only its index. Default: False,
        because values may be confidential.
    """

    name = "otel"
    defaults = {"attributes": None, "logs": None, "foreach_value": False}  # noqa: RUF012 - the form that StepDecorator asks for

    # Of a step that Metaflow does not initialize, as in `flow.py spin`, which still asks what to package.
    _flow = _decorators = ()
    _command = None

    def __init__(self, attributes=None, *args, **kwargs):
        # Metaflow rejects an unknown option while it creates the class of the flow, with a traceback; rejected in
        # `init`, it is reported in one line.
        given = attributes or {}
        self._unknown = sorted(name for name in given if name not in self.defaults)
        super().__init__({name: value for name, value in given.items() if name in self.defaults}, *args, **kwargs)

    def init(self):
        if self._unknown:
            raise MetaflowException(
                "@otel has no option %r; its options are %s." % (self._unknown[0], ", ".join(self.defaults))
            )
        self._attempt = None
        self._options = {
            "attributes": _checked_attributes(self.attributes["attributes"]),
            "logs": _checked_logs(self.attributes["logs"]),
            "foreach_value": _checked_flag("foreach_value", self.attributes["foreach_value"]),
        }

    # In every process of the flow.

    def step_init(self, flow, graph, step_name, decorators, environment, flow_datastore, logger):
        self._step_name = step_name
        self._decorators = decorators
        self._flow = flow
        self._command = _command()
        if any(each.name == self._command for each in decorators):  # as `flow.py kubernetes step`: sends a task away
            _call("launcher.remote", "prepare_task", step_name, decorators, environment, flow_datastore, _arguments())

    # Where Metaflow makes its code package: for `flow.py run` and for deployments, which have given each step by now
    # the decorator that sends it away. In a thread, whose end both wait for where a step is remote.

    def package_init(self, flow, step_name, environment):
        if any(map(_is_remote, self._decorators)):
            is_run = self._command in _RUN_COMMANDS
            _call("launcher.remote", "prepare_package", step_name, self._decorators, environment, is_run)

    def add_to_package(self):
        return _call("launcher.code_package", "files") or () if self._travels() else ()

    def _travels(self):
        """Whether tasks may run where otel-metaflow is not installed; answered for the flow by one of its steps."""
        try:
            decorators = [each for step in self._flow for each in step.decorators]
            is_first = next(each for each in decorators if isinstance(each, OtelDecorator)) is self
            return is_first and (any(map(_is_remote, decorators)) or self._command not in (None, *_RUN_COMMANDS))
        except Exception:  # noqa: BLE001 - a Metaflow that is built differently packages nothing of ours
            return False

    # In the launcher, `flow.py run`.

    def runtime_init(self, flow, graph, package, run_id):
        _call("launcher.run", "start", flow, str(run_id), graph, self._step_name, self._options)

    def runtime_step_cli(self, cli_args, retry_count, max_user_code_retries, ubf_context):
        _call("launcher.run", "launching", cli_args)

    def runtime_finished(self, exception):
        _call("launcher.run", "finished", exception)

    # In the task, `flow.py step`.

    def task_pre_step(
        self,
        step_name,
        task_datastore,
        metadata,
        run_id,
        task_id,
        flow,
        graph,
        retry_count,
        max_user_code_retries,
        ubf_context,
        inputs,
    ):
        witness = os.environ.get("OTEL_METAFLOW_WITNESS")  # what follows removes it
        self._attempt = _call(
            "task.hooks",
            "pre_step",
            flow=flow,
            run=str(run_id),
            step=step_name,
            task=str(task_id),
            attempt=retry_count,
            max_user_code_retries=max_user_code_retries,
            options=self._options,
            graph=graph,
            inputs=inputs,
            output=task_datastore,
            metadata=metadata,
        )
        _meet(witness)

    def task_decorate(self, step_func, flow, graph, retry_count, max_user_code_retries, ubf_context):
        # The step is not wrapped, because our frame would appear in the user's tracebacks.
        if self._attempt is not None:
            _call("task.hooks", "before_user_code", self._attempt)
        return step_func

    def task_post_step(self, step_name, flow, graph, retry_count, max_user_code_retries):
        if self._attempt is not None:
            _call("task.hooks", "after_user_code", self._attempt)

    def task_exception(self, exception, step_name, flow, graph, retry_count, max_user_code_retries):
        if self._attempt is not None:
            _call("task.hooks", "exception", self._attempt, exception)

    def task_finished(self, step_name, flow, graph, is_task_ok, retry_count, max_user_code_retries):
        if self._attempt is not None:
            _call("task.hooks", "finished", self._attempt, is_task_ok, self._decorators)


def _is_remote(decorator):
    """Whether a decorator has its step run elsewhere: its environment is then made for that place, as Metaflow asks."""
    return bool(getattr(decorator, "supports_conda_environment", False))


def _command():
    """The command that the flow was given, such as run or argo-workflows; None where that is not known."""
    return _arguments()[0]


def _arguments():
    try:
        return list(sys.modules["metaflow._vendor.click"].get_current_context().find_root().saved_args) or [None]
    except Exception:  # noqa: BLE001 - another Metaflow: nothing is prepared for other machines
        return [None]


def _meet(witness):
    """Inform the shell of a container (otel_metaflow/task/witness.sh) that its step has come up, by the file `witness`.

    Not before its journal is there: the shell takes a step that came up without one for one that records nothing.
    """
    if witness:
        try:
            open(witness, "w").close()
        except OSError:
            return  # it takes the step for one that never came up, and records how it ended


_modules = {}
# Set by a process that found the installation broken, for its children.
_BROKEN = "OTEL_METAFLOW_BROKEN"


def _call(module, hook, *args, **kwargs):
    """Call a hook of `otel_metaflow`, or do nothing if it is not installed, as in a bare container.

    The hooks contain their own errors. This catches an installation that is broken, or of another version than this
    file: it is reported in one line, and the run goes on without telemetry.
    """
    if os.environ.get(_BROKEN):
        return None
    try:
        if module not in _modules:
            # Kept, because user code may change sys.modules and sys.path.
            _modules[module] = _imported("otel_metaflow." + module)
        return _modules[module] and getattr(_modules[module], hook)(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - no error of ours may reach the run
        guard = sys.modules.get("otel_metaflow.core.guard")
        if guard is not None:
            guard.let_pass(error)
        os.environ[_BROKEN] = "1"
        _report(error)
        return None


def _imported(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # What travels to a container has no launcher (otel_metaflow/launcher/code_package.py).
        if error.name in ("otel_metaflow", "otel_metaflow.launcher"):
            return None
        raise


def _report(error):
    try:
        sys.stderr.write(
            "otel: no telemetry: the installation of otel-metaflow is broken (%s: %s); "
            "type: pip install --force-reinstall otel-metaflow\n" % (type(error).__name__, " ".join(str(error).split()))
        )
    except Exception:  # noqa: BLE001 - user code may close stderr, which must not fail a step
        return


def _checked_attributes(value):
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MetaflowException(
            "@otel(attributes=...) must be a dictionary such as {'team': 'search'}, not %s." % type(value).__name__
        )
    for name, item in value.items():
        if not isinstance(name, str) or not name:
            raise MetaflowException("@otel(attributes=...) must have non-empty strings as names, not %r." % (name,))
        if not isinstance(item, _ATTRIBUTE_TYPES):
            raise MetaflowException(
                "@otel(attributes=...) allows strings, numbers and booleans as values; %r is a %s."
                % (name, type(item).__name__)
            )
    return dict(value)


def _checked_logs(value):
    if value is None:
        return None
    # With `--with otel:logs=stdout` it is one string.
    names = [part.strip() for part in value.split("+")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise MetaflowException(
            "@otel(logs=...) must be a list of %s, not %s." % (", ".join(_LOG_SOURCES), type(value).__name__)
        )
    for name in names:
        if name not in _LOG_SOURCES:
            raise MetaflowException("@otel(logs=...) does not support %r, only %s." % (name, ", ".join(_LOG_SOURCES)))
    return list(names)


def _checked_flag(name, value):
    # With `--with otel:foreach_value=true` it is text.
    if str(value).lower() not in ("true", "false"):
        raise MetaflowException("@otel(%s=...) must be True or False, not %r." % (name, value))
    return str(value).lower() == "true"


# In a process of a container that stores Metaflow's log files, `python -m metaflow.mflog.save_logs`: the task, and at
# the end the shell of its step, have left word of its journals.
_LOGS = os.path.dirname(os.environ.get("MFLOG_STDOUT", ""))
if os.path.isabs(_LOGS) and sys.argv[:1] == ["-m"]:
    for _name, _is_over in (("otel-over", True), ("otel-journal", False)):
        if os.path.exists(os.path.join(_LOGS, _name)):
            _call("task.stored_journals", "send", os.path.join(_LOGS, _name), is_over=_is_over)
            break
