import os
import signal
import threading

import pytest

from sonant.train.stop import StopWish


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_becomes_a_wish_and_the_old_handler_comes_back(name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with StopWish(None) as wish:
        assert wish.reason is None
        os.kill(os.getpid(), number)
        assert wish.reason == name
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with StopWish(None):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_clock_runs_out_after_max_hours() -> None:
    with StopWish(1e-9) as wish:
        assert wish.reason == "max_hours"
    with StopWish(1.0) as wish:
        assert wish.reason is None


def test_outside_the_main_thread_no_handler_is_touched() -> None:
    before, reasons = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with StopWish(None) as wish:
            reasons.append((wish.reason, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == [(None, before)]
