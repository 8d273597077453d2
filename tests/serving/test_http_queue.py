"""The queue: full, late, left, failing, shared and ending."""

from __future__ import annotations

import threading
import time

import pytest
from http_service import AMPLE_MS, FakeModel, box_of, running_service
from raw_http import detect, form, request
from waiting import Clock, wait_until

from glip_export.runtime.requests import image_key
from glip_export.serving.settings import Settings


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    with running_service(
        FakeModel(seconds=0.05), Settings(max_queue=4, max_pictures=4, deadline_ms=AMPLE_MS)
    ) as service:
        pictures = [b"photo %d" % number for number in range(12)]
        with service.held_until(lambda: service.value("glip_errors_total", error="busy") == 8):
            replies = service.ask_all([detect(picture, "cat") for picture in pictures])
        assert sorted(reply.status for reply in replies) == [200] * 4 + [429] * 8
        for picture, reply in zip(pictures, replies, strict=True):
            if reply.status == 200:
                assert reply.json()["results"][0]["detections"][0]["box"] == box_of(image_key(picture))
            else:
                assert reply.json()["error"]["code"] == "busy" and int(reply.headers["retry-after"]) >= 1
        assert service.value("glip_errors_total", error="busy") == 8
        assert service.value("glip_queue_pictures") == service.value("glip_queue_depth") == 0
        assert service.ask(detect(b"photo", "cat")).status == 200


def test_what_could_not_be_answered_in_time_is_refused_at_once() -> None:
    with running_service(FakeModel(seconds=400, clock=Clock()), Settings(deadline_ms=8_000_000)) as service:

        def told() -> float:
            return service.value("glip_errors_total", error="busy") + service.value("glip_queue_pictures")

        with service.held_until(lambda: told() == 30 and service.value("glip_queue_depth") == 9):
            replies = service.ask_all([detect(b"photo %d" % number, "cat") for number in range(30)])
        statuses = [reply.status for reply in replies]
        assert set(statuses) == {200, 429}  # and none is accepted and then late
        assert statuses.count(200) == 10  # 20 would be done by the deadline; half of them are taken


def test_a_model_that_becomes_slower_still_answers_in_time_or_refuses() -> None:
    settings = Settings(max_queue=40, deadline_ms=4_000_000)
    with running_service(FakeModel(seconds=20, clock=Clock()), settings) as service:
        assert service.ask(detect(b"quick", "cat")).status == 200
        service.model.seconds = 600
        with service.held_until(lambda: service.value("glip_queue_depth") == 39):  # one is in the model
            replies = service.ask_all([detect(b"photo %d" % number, "cat") for number in range(40)])
        assert {reply.status for reply in replies} == {200, 429}  # accepted for what it was, refused for what it is
        assert sum(reply.status == 200 for reply in replies) == 6  # done at 600, 1200, ... 3600 s
        assert all("retry-after" in reply.headers for reply in replies if reply.status == 429)
        assert service.value("glip_dropped_total") == 34  # without having been run
        assert service.value("glip_queue_pictures") == 0


def test_the_deadline() -> None:
    with running_service() as service:
        service.model.may_run.clear()
        started = time.monotonic()
        reply = service.ask(detect(b"late", "cat", deadline_ms=300))  # while the model runs nothing
        assert (reply.status, reply.json()["error"]["code"]) == (504, "deadline")
        assert time.monotonic() - started >= 0.3
        service.model.may_run.set()
        assert service.ask(detect(b"next", "cat")).status == 200
        assert [key for run in service.model.runs for key in run] == [image_key(b"next")]  # the late one never ran
        assert service.value("glip_errors_total", error="deadline") == 1


def test_who_hangs_up_is_not_computed_for() -> None:
    with running_service() as service:
        service.model.may_run.clear()
        for number, name in enumerate((b"first", b"second"), start=1):
            service.leave(detect(name, "cat"), lambda: service.value("glip_queue_pictures") == 1)
            wait_until(lambda number=number: service.value("glip_clients_gone_total") == number)
        service.leave(detect(b"half", "cat")[:200], service.is_reading)
        wait_until(lambda: service.value("glip_clients_gone_total") == 3)
        service.model.may_run.set()
        assert service.ask(detect(b"next", "cat")).status == 200
        assert [key for run in service.model.runs for key in run] == [image_key(b"next")]
        assert service.value("glip_dropped_total") == 2
        assert service.value("glip_queue_pictures") == 0


@pytest.mark.parametrize("picture", [b"break", b"fail"])
def test_a_failing_model_answers_500_and_nothing_of_its_insides(
    picture: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with running_service(FakeModel()) as service:
        replies = service.ask_all([detect(picture, "cat"), detect(b"other", "cat")])
        assert replies[0].status == 500
        assert replies[0].json() == {
            "error": {"code": "internal", "message": "the model failed on this request; the server's log says why"}
        }
        assert service.ask(detect(b"next", "cat")).status == 200
        assert "secret" in caplog.text  # in the server's log


@pytest.mark.parametrize(("in_turn", "largest"), [(False, 4), (True, 1)])
def test_what_comes_at_once_is_run_at_once_where_that_gains(in_turn: bool, largest: int) -> None:
    wait_ms = 60_000 if in_turn else 1500
    settings = Settings(max_batch=4, max_wait_ms=wait_ms, deadline_ms=AMPLE_MS)
    with running_service(FakeModel(runs_in_turn=in_turn), settings) as service:
        with service.held_until(lambda: service.value("glip_queue_pictures") == 10):
            replies = service.ask_all([detect(b"photo %d" % number, "cat") for number in range(10)])
        assert [reply.status for reply in replies] == [200] * 10
        sizes = [len(run) for run in service.model.runs]
        assert sum(sizes) == 10 and max(sizes) == largest
        assert service.value("glip_batch_pictures_count") == len(sizes)
        assert service.value("glip_stage_seconds_count", stage="total") == 10
        waited = service.value("glip_stage_seconds_sum", stage="queue")
        service.ask(detect(b"alone", "cat"))
        waited = service.value("glip_stage_seconds_sum", stage="queue") - waited
        assert (
            waited > 0.8 * wait_ms / 1000
        ) is not in_turn  # only a model that gains from it lets a picture wait for others


def test_the_end_finishes_what_was_accepted() -> None:
    with running_service(FakeModel(seconds=0.02)) as service:
        service.model.may_run.clear()
        replies: list[list[int]] = []
        asking = threading.Thread(
            target=lambda: replies.append(
                [reply.status for reply in service.ask_all([detect(b"photo %d" % n, "cat") for n in range(5)])]
            )
        )
        asking.start()
        wait_until(lambda: service.value("glip_queue_pictures") == 5)
        loop = next(iter(service.server.servers)).get_loop()
        loop.call_soon_threadsafe(service.server.stop)
        wait_until(lambda: service.value("glip_ready") == 0)
        ready = service.ask(request("/readyz", method="GET"))
        alive = service.ask(request("/healthz", method="GET"))
        refused = service.ask(detect(b"too late", "cat"))
        assert (ready.status, alive.status, refused.status) == (503, 200, 503)
        assert refused.json()["error"]["code"] == "busy" and "retry-after" in refused.headers
        service.model.may_run.set()
        asking.join()
        assert replies == [[200] * 5]
        wait_until(lambda: service.server.should_exit)


def test_several_pictures_take_their_places_together() -> None:
    with running_service(FakeModel(), Settings(max_queue=4, max_pictures=3, deadline_ms=AMPLE_MS)) as service:
        service.model.may_run.clear()
        three = request("/v1/detect", *form([*[("image", b"a")] * 3, ("prompt", b"cat")]))
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(service.ask(three).status))
        asking.start()
        wait_until(lambda: service.value("glip_queue_pictures") == 3)
        assert service.ask(three).status == 429
        service.model.may_run.set()
        asking.join()
        assert answers == [200] and service.ask(three).status == 200
