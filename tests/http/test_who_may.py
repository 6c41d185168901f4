"""Who may: every operation of the schema, asked with each kind of credential that must not do."""

from tests.support.live import Live, live

from luxx.container import Container
from luxx.testing import FixedClock

OF_A_LOGIN_ALONE = {
    ("post", "/api/auth/logout"),
    ("post", "/api/auth/password"),
    ("get", "/api/auth/sessions"),
    ("delete", "/api/auth/sessions/{session_id}"),
    ("post", "/api/auth/keys"),
    ("get", "/api/auth/keys"),
    ("delete", "/api/auth/keys/{key_id}"),
}
"""What a key must not do: it could make itself a longer life."""


async def operations(served: Live) -> list[tuple[str, str]]:
    """Give method and path of every operation that asks for a token."""
    document = (await served.http.get("/schema/openapi.json")).json()
    paths = document["paths"].items()
    found = [(method, path) for path, those in paths for method, one in those.items() if "security" in one]
    assert len(found) >= 20
    return found


async def outcomes(served: Live, token: str) -> dict[tuple[str, str], tuple[int, str]]:
    """Ask for each with an id that is nobody's and no body, so that nothing changes; gives status and code."""
    told = {}
    for method, path in await operations(served):
        filled = path
        for name in ("id", "session_id", "key_id", "name"):
            filled = filled.replace(f"{{{name}}}", "nothing")
        answer = await served.http.request(method, filled, headers={"Authorization": f"Bearer {token}"})
        told[method, path] = (answer.status_code, answer.json().get("error", {}).get("code", ""))
    return told


async def test_a_token_that_is_no_good_is_refused_by_every_operation(container: Container) -> None:
    clock = FixedClock()
    container.clock.override(clock)
    async with live(container) as server:
        lasting = await server.account()
        made = await lasting.post("/api/auth/keys", json={"name": "short", "expires_in_days": 1})
        left = (await server.account()).token
        await server.http.post("/api/auth/logout", headers={"Authorization": f"Bearer {left}"})
        assert set((await outcomes(server, left)).values()) == {(401, "token_revoked")}
        barred = await server.account()
        key = (await barred.post("/api/auth/keys", json={"name": "barred"})).json()["data"]["key"]
        await container.change_user()(username=barred.username, is_active=False)
        for token in (barred.token, key):
            assert set((await outcomes(server, token)).values()) == {(403, "account_disabled")}
        clock.advance(24 * 3600)  # to the instant at which both end
        for token in (lasting.token, made.json()["data"]["key"]):
            assert set((await outcomes(server, token)).values()) == {(401, "token_expired")}


async def test_a_key_is_refused_by_what_only_a_login_may_do_and_by_nothing_else(served: Live) -> None:
    user = await served.account()
    key = (await user.post("/api/auth/keys", json={"name": "any"})).json()["data"]["key"]
    told = await outcomes(served, key)
    assert {one for one, outcome in told.items() if outcome == (403, "forbidden")} == OF_A_LOGIN_ALONE
    assert not {status for one, (status, _) in told.items() if one not in OF_A_LOGIN_ALONE} & {401, 403, 500}
