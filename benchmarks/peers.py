"""Other programs for the same job, on the same rows. Run it with the interpreter that has them.

    PYTHON benchmarks/peers.py curator|ray URL ROWS IN_FLIGHT

Neither records requests before sending them, so both may pay twice after a kill. They are here to
compare their speed.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def curator(url: str, rows: int, in_flight: int) -> None:
    """Runs bespokelabs-curator's online processor, which needs an OpenAI-compatible endpoint."""
    # litellm, which it installs, contains token tables that it would otherwise download.
    litellm = find_spec("litellm")
    assert litellm is not None
    assert litellm.origin is not None
    tables = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
    os.environ |= {
        "TELEMETRY_ENABLED": "0",
        "CURATOR_DISABLE_CACHE": "1",
        "TIKTOKEN_CACHE_DIR": str(tables),
    }
    from bespokelabs import curator as library  # type: ignore[import-not-found]

    llm = library.LLM(
        model_name="gpt-4o-mini",
        backend="openai",
        backend_params={
            "base_url": f"{url}/v1",
            "api_key": "sk_bench",
            "max_concurrent_requests": in_flight,
            "max_requests_per_minute": 100_000_000,
            "max_tokens_per_minute": 100_000_000_000,
        },
    )
    answers = llm([f"a story about dog number {n}" for n in range(rows)])
    found = len(getattr(answers, "dataset", answers))
    assert found == rows, found


def ray(url: str, rows: int, in_flight: int) -> None:
    """Runs Ray Data's HTTP processor with one actor. One whole batch is in flight at a time."""
    import ray as library
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    own = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 2, "include_dashboard": False}
    library.init(log_to_driver=False, logging_level="ERROR", **own)
    library.data.DataContext.get_current().enable_progress_bars = False
    config = HttpRequestProcessorConfig(
        url=f"{url}/api/v1/run/wf_bench",
        headers={"Authorization": f"Bearer {os.environ.get('AITUTOR_API_KEY', 'sk_bench')}"},
        batch_size=in_flight,
        concurrency=1,
        qps=None,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {"payload": {"story": f"a story about dog number {row['id']}"}},
        postprocess=lambda row: {"result": row["http_response"]["result"]},
    )
    found = processor(library.data.range(rows)).materialize().count()
    assert found == rows, found


if __name__ == "__main__":
    name, url, rows, in_flight = sys.argv[1:]
    {"curator": curator, "ray": ray}[name](url, int(rows), int(in_flight))
