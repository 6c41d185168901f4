"""All storages, asked the same at random, give the same: what one of them does otherwise is in no contract yet."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, TypeAlias

import pytest
from tests.support.databases import OpenDatabase

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.system import utc_now
from luxx.application.ports import (
    ConversationPlace,
    IdempotencyKey,
    KeyTaken,
    Lease,
    LeaseLost,
    NewTurn,
    PasswordTry,
    Storage,
    TooManyTurns,
    UnitOfWork,
)
from luxx.domain.api_key import ApiKey
from luxx.domain.conversation import Conversation
from luxx.domain.errors import LuxxError
from luxx.domain.message import Problem, Status, TextPart, Usage
from luxx.domain.turn import Done, Failed, ToolCalled
from luxx.domain.user import Session, User
from luxx.testing.contracts.storage_samples import (
    EXPIRED,
    LONG,
    ODD_TEXT,
    moment,
    new_conversation,
    new_id,
    new_turn,
    stored_user,
)

STEPS: Final = 300
ODD: Final = ("p", "P", "p ", "é", "e\u0301", "字", "%", "", "\0", "\ud800")
EXPECTED: Final = (LuxxError, KeyTaken, TooManyTurns, LeaseLost)

Unit: TypeAlias = Callable[[UnitOfWork], Awaitable[Any]]
Asked: TypeAlias = Callable[[Storage], Awaitable[Any]]


@dataclass(slots=True)
class World:
    """What there is to ask for; ids are named by the test, so that they are the same everywhere."""

    dice: random.Random
    users: list[User]
    conversations: list[Conversation] = field(default_factory=list)
    turns: list[tuple[NewTurn, Lease]] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    keys: list[ApiKey] = field(default_factory=list)
    places: list[ConversationPlace | None] = field(default_factory=lambda: [None])

    def at(self) -> Any:
        return moment(self.dice.randrange(60) + self.dice.choice((0, 0.000001)))

    def owner(self, likely: int) -> int:
        return self.dice.choice((*[likely] * 8, *(user.id for user in self.users), 10**12))

    def conversation(self) -> tuple[int, str]:
        one = self.dice.choice(self.conversations)
        return self.owner(one.user_id), self.dice.choice((*[one.id] * 9, "conv_\0"))

    def message(self) -> tuple[int, str]:
        turn, _ = self.dice.choice(self.turns[-20:])
        one = self.dice.choice((turn.answer.id, turn.user_message.id))
        return self.owner(turn.owner), self.dice.choice((*[one] * 9, "msg_none"))

    # --- units --------------------------------------------------------------------------------------

    def change(self) -> Unit:
        """Choose something that takes a commit."""
        dice, user = self.dice, self.dice.choice(self.users)
        owner, conversation_id = self.conversation()
        match dice.randrange(12):
            case 0 | 1:
                at = self.at()
                made = new_conversation(
                    user,
                    project_id=dice.choice((None, *ODD[:6])),
                    tools=dice.choice((None, ())),
                    created_at=at,
                    updated_at=at,
                )
                self.conversations.append(made)
                return lambda unit: unit.conversations.add(made)
            case 2:
                changed = replace(
                    dice.choice(self.conversations), project_id=dice.choice((None, *ODD[:6])), user_id=owner
                )
                return lambda unit: unit.conversations.update(changed)
            case 3:
                return lambda unit: unit.conversations.delete(owner, conversation_id)
            case 4 if self.turns:
                message = self.message()
                return lambda unit: unit.messages.delete(*message)
            case 5:
                session = Session(id=new_id("sess"), user_id=user.id, created_at=self.at(), expires_at=moment(45))
                self.sessions.append(session)
                return lambda unit: unit.sessions.add(session)
            case 6 if self.sessions:
                one, at = dice.choice(self.sessions), self.at()
                return dice.choice(
                    (
                        lambda unit: unit.sessions.revoke(one.id, at),
                        lambda unit: unit.sessions.revoke_one_of(owner, one.id, at),
                        lambda unit: unit.sessions.revoke_all_of(owner, at, but=one.id),
                    )
                )
            case 7:
                key = ApiKey(id=new_id("key"), user_id=user.id, name=ODD_TEXT, created_at=self.at(), expires_at=None)
                self.keys.append(key)
                return lambda unit: unit.api_keys.add(key, key.id.upper())
            case 8 if self.keys:
                used, at = dice.choice(self.keys), self.at()
                return dice.choice(
                    (lambda unit: unit.api_keys.used(used.id, at), lambda unit: unit.api_keys.delete(owner, used.id))
                )
            case 9:
                return lambda unit: unit.tries.forget("ada")
            case 10:
                disabled = replace(user, is_active=dice.random() < 0.5, password_hash=str(dice.random()))
                return lambda unit: unit.users.update(disabled)
            case _:
                guess = PasswordTry(id=new_id("try"), account=dice.choice(("ada", "bob")), peer="p", at=self.at())
                limits = {"account_limit": dice.randrange(1, 4), "peer_limit": dice.randrange(1, 5)}
                since = guess.at - timedelta(seconds=20)
                return lambda unit: unit.tries.begin(guess, since=since, **limits)

    def read(self) -> Unit:
        dice = self.dice
        owner, conversation_id = self.conversation()
        number, name = dice.randrange(1, 6), dice.choice(ODD)
        _, message_id = self.message() if self.turns else (0, "msg_none")
        reads: list[Unit] = [
            lambda unit: unit.conversations.get(owner, conversation_id),
            lambda unit: unit.turns.get(owner, message_id),
            lambda unit: unit.turns.running_in(owner, conversation_id),
            lambda unit: unit.turns.recall(owner, name),
            lambda unit: unit.messages.get(owner, message_id),
            lambda unit: unit.messages.page(owner, conversation_id, limit=number),
            lambda unit: unit.messages.page(owner, conversation_id, limit=number, before=message_id),
            lambda unit: unit.sessions.live_of(owner, moment(30)),
            lambda unit: unit.api_keys.of(owner),
            lambda unit: unit.users.by_username(name),
            lambda unit: unit.users.page(after=number - 3, limit=number),
        ]
        filters: dict[str, Any] = {"project_id": dice.choice((None, *ODD)), "limit": number}
        offset, behind = dice.choice((0, 0, 1, 3, 2**31 - 1)), dice.choice(self.places[-5:])

        async def list_conversations(unit: UnitOfWork) -> Any:
            found = await unit.conversations.page(owner, offset=offset, **filters)
            self.places.append(found.rest)
            return found

        reads += [list_conversations] * 3
        reads += [lambda unit: unit.conversations.page(owner, behind=behind, **filters)] * 3
        if self.sessions:
            session = dice.choice(self.sessions)
            reads.append(lambda unit: unit.sessions.with_user(session.id))
        return dice.choice(reads)

    # --- what is asked of a storage -----------------------------------------------------------------

    def begin(self) -> Asked:
        dice = self.dice
        conversation = dice.choice(self.conversations)
        key = IdempotencyKey(key=dice.choice(ODD[:6]), fingerprint="f") if dice.random() < 0.3 else None
        turn = replace(
            new_turn(conversation, at=self.at(), key=key, history=dice.choice((0, 1, 2, 5, 1000))),
            lease_for=dice.choice((LONG, LONG, EXPIRED)),
            at_most=dice.choice((0, 0, 1, 3)),
            owner=self.owner(conversation.user_id),
        )
        self.turns.append((turn, turn.lease()))

        async def ask(storage: Storage) -> Any:
            async with storage.new_unit() as unit:
                begun = await unit.turns.begin(turn)
            return begun.lease, begun.answer, begun.conversation, list(begun.history)

        return ask

    def cancel(self) -> Asked:
        message = self.message()

        async def ask(storage: Storage) -> None:
            async with storage.new_unit() as unit:
                await unit.turns.request_cancel(*message)

        return ask

    def end(self) -> Asked:
        turn, lease = self.dice.choice(self.turns[-8:])
        answer = replace(
            turn.answer,
            parts=(TextPart(text=ODD_TEXT),),
            status=self.dice.choice((Status.COMPLETE, Status.CANCELLED, Status.FAILED)),
            usage=self.dice.choice((None, Usage(total_tokens=3))),
        )
        end: Done | Failed = Done(message=answer)
        if answer.status is Status.FAILED:
            answer = replace(answer, error=Problem(code="c", message=ODD_TEXT))
            end = Failed(code="c", message=ODD_TEXT, message_id=answer.id)
        calls = [ToolCalled(id=new_id("call"), name="t", arguments={"a": [1.5, None]}) for _ in range(2)]

        async def ask(storage: Storage) -> Any:
            for call in calls:
                await storage.log.append(lease, call)
            await storage.log.end(lease, end, answer)

        return ask

    def log(self) -> Asked:
        dice, (_, message_id) = self.dice, self.message()
        after, limit, afresh = dice.randrange(5), dice.choice((1, 2, 256)), dice.random() < 0.5
        made, soon = self.at(), utc_now() + timedelta(seconds=30 if dice.random() < 0.1 else -600)

        async def take(storage: Storage) -> Any:
            taken = await storage.log.take_expired("reaper", LONG, limit=1000)
            return {lease.message_id: lease for lease in taken}

        return dice.choice(
            (
                lambda storage: storage.log.read(message_id, after=after, limit=limit, afresh=afresh),
                lambda storage: storage.log.renew("here", [message_id, "msg_none"], LONG),
                lambda storage: storage.log.forget(ended_before=soon, keys_made_before=made),
                take,
            )
        )

    def ask(self) -> Asked:
        if self.dice.random() < 0.4 and self.turns:
            return self.dice.choice((self.cancel, self.end, self.end, self.log, self.log))()
        if self.dice.random() < 0.2:
            return self.begin()
        steps = [self.change() if self.dice.random() < 0.5 else self.read() for _ in range(self.dice.choice((1, 1, 3)))]
        commits = self.dice.random() < 0.85

        async def ask(storage: Storage) -> Any:
            async with storage.new_unit() as unit:
                gave = [await told(step(unit)) for step in steps]
                if commits:
                    await unit.commit()
            return gave

        return ask


async def told(asked: Awaitable[Any]) -> Any:
    """Give a result, or which error it was, in a form that compares."""
    try:
        result = await asked
    except EXPECTED as error:
        return type(error), getattr(error, "code", None)
    return list(result) if isinstance(result, list | tuple) else result


@pytest.mark.parametrize("seed", range(3))
async def test_all_storages_give_the_same(
    open_database: OpenDatabase, sqlite_url: str, postgres_url: str, seed: int
) -> None:
    storages: list[Storage] = [MemoryStorage(), await open_database(sqlite_url), await open_database(postgres_url)]
    for name in ("ada", "bob", "cyd"):
        users = {(await stored_user(storage, name)).id for storage in storages}
        assert len(users) == 1
    async with storages[0].new_unit(read_only=True) as unit:
        world = World(random.Random(seed), list(await unit.users.page()))
    world.conversations.append(new_conversation(world.users[0]))
    refused = 0
    for number in range(STEPS):
        asked = world.ask()
        memory, *others = [await told(asked(storage)) for storage in storages]
        assert others == [memory, memory], f"step {number}"
        refused += isinstance(memory, list) and len(memory) == 2 and isinstance(memory[0], type)
    assert refused < STEPS / 2, "most of what is asked is there"
