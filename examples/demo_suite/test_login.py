import pytest


class TestLogin:
    @pytest.mark.parametrize("name", ["ada", "grace", "ünïcödé ✓"], ids=["ada", "grace", "unicode ✓"])
    def test_known_user(self, database, name):
        users = [*database["users"], "ünïcödé ✓"]
        assert name in users

    def test_unknown_user_is_turned_away(self, database):
        assert "mallory" not in database["users"]

    def test_greeting(self, database):
        greeting = f"Hello {database['users'][0]}"
        assert greeting == "Hello Ada"

    def test_session_is_closed(self, leaky_session):
        assert leaky_session == "session"

    def test_last_login(self, broken_database):
        assert broken_database


def test_password_is_not_shown():
    password = "*" * 8
    assert set(password) == {"*"}


def test_lockout_after_three_tries():
    tries = [False, False, False]
    if not any(tries):
        raise TimeoutError("no lockout within 2 s")
