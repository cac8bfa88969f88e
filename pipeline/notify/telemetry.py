"""Finds the collectors for `notify: {opentelemetry: true}` in OpenTelemetry's own environment
variables.

The packages are an optional extra. `otlp`, which uses them, is imported only if a job file asks
for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.core.errors import Refused
from pipeline.job.spec import JobSpec
from pipeline.notify.endpoint import Collector

if TYPE_CHECKING:
    from pipeline.notify.otlp import Telemetry

_PROTOCOL = "http/protobuf"
_DEFAULT_ENDPOINT = "http://localhost:4318"


def find_telemetry(spec: JobSpec, environment: Mapping[str, str] = os.environ) -> Telemetry | None:
    """Returns the exporter for a run of `spec`. None if the spec asks for none, or if
    OTEL_SDK_DISABLED is true.

    Raises:
        Refused: when the extra is not installed, and for an address or a protocol that cannot be
            used.
    """
    told = spec.notify
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if told is None or not told.opentelemetry or disabled:
        return None
    where = f"{spec.at('notify.opentelemetry')}: `opentelemetry`"
    traces = _collector("traces", where, environment)
    metrics = _collector("metrics", where, environment)
    try:
        from pipeline.notify.otlp import Telemetry
    except ImportError as error:
        raise Refused(
            f"{where} needs packages that are not installed ({error.name}). Install them with "
            "`pip install 'paidrows[otel]'`, or remove this line from the job file."
        ) from None
    return Telemetry(spec.name, traces, metrics, told.timeout_s, environment)


def _collector(signal: str, where: str, environment: Mapping[str, str]) -> Collector | None:
    """Returns the collector of `signal`, by the rules of the OTLP exporter's specification. None if
    the signal is turned off."""
    name = signal.upper()
    if environment.get(f"OTEL_{name}_EXPORTER", "").strip().lower() == "none":
        return None
    variable, protocol = _setting(name, "PROTOCOL", environment)
    if protocol not in ("", _PROTOCOL):
        raise Refused(
            f"{where} supports only {_PROTOCOL} (port 4318 of a collector), but {variable} is "
            f"{protocol}. Set it to {_PROTOCOL}."
        )
    variable, url = _setting(name, "ENDPOINT", environment)
    if not variable.endswith(f"{name}_ENDPOINT"):  # the address of one signal is used unchanged
        url = f"{(url or _DEFAULT_ENDPOINT).removesuffix('/')}/v1/{signal}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise Refused(
            f"{where}: the environment variable {variable} is not an http:// or https:// address."
        )
    return Collector(f"opentelemetry ({signal}) {parts.scheme}://{host}/…", url)


def _setting(name: str, what: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Returns the variable that counts for a signal, and its text. The signal's own variable comes
    before the general one."""
    own = f"OTEL_EXPORTER_OTLP_{name}_{what}"
    variable = own if environment.get(own) else f"OTEL_EXPORTER_OTLP_{what}"
    return variable, environment.get(variable, "").strip()
