"""The retry policy of the DAGs. The delay grows with the number of tries since the task was last cleared.

Airflow's own backoff counts all tries of the task, including those before a clear. So the delays after a clear would be
too long.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.definitions.retry_policy import RetryDecision

from capsfusion_tasks.errors import InputError

if TYPE_CHECKING:
    from airflow.sdk import Context

RETRIES = 3
FIRST_DELAY = timedelta(seconds=30)


class RetryBackoff(ExceptionRetryPolicy):
    """Fails at once on an InputError. Retries all other errors, with a delay that doubles with each try."""

    def __init__(self) -> None:
        super().__init__([RetryRule(InputError, RetryAction.FAIL, reason="a retry will not help")])

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        decision = super().evaluate(exception, try_number, max_tries, context)
        if decision.action is RetryAction.FAIL:
            return decision
        # Count the tries since the last clear: a clear sets max_tries to the number of past tries plus RETRIES.
        tries = max(1, try_number - (max_tries - RETRIES))
        if tries > RETRIES:
            return RetryDecision.default()
        delay = FIRST_DELAY * 2 ** (tries - 1)
        reason = f"retry {tries} of {RETRIES}, after {delay.total_seconds():.0f} s"
        return RetryDecision.retry(delay=delay, reason=reason)
