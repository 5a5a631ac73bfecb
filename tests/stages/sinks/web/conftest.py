import threading

import pytest

from tests.stages.sinks.web.status_page import Page, StandIn


@pytest.fixture
def opened():
    pages = []

    def make(run=None, **settings):
        pages.append(Page(run or StandIn(), **settings))
        return pages[-1]

    yield make
    for page in pages:
        page.stage.close()
    assert not [t.name for t in threading.enumerate() if t.name in ("web", "encoder", "reader_0")]


@pytest.fixture
def page(opened):
    return opened()
