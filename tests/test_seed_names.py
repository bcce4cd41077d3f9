"""
What the READMEs that this package follows name, MIGRATION_GUIDE.md maps: nothing of theirs is left without an answer.

The names are kept as text, since those READMEs are not part of the project: functions, methods, classes, fixtures,
decorators, arguments, commands with their options, variables and exceptions. Names of the examples' own are left out.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import asyncpg
import pytest
from typer.main import get_command

import database as db
import pytest_pgdatabase
from database import testing
from database.cli.commands import app
from database.contrib import fastapi
from database.settings import Settings

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "MIGRATION_GUIDE.md").read_text(encoding="utf-8")

NAMES = {
    "psycopg-toolkit": """
        AsyncConnection AsyncTaskWorker BaseRepository DataManager Database DatabaseConnectionError DatabaseNotAvailable
        DatabasePoolError DatabaseSettings InvalidDataError OperationError PsycoDBException PsycopgHelper
        RecordNotFoundError RepositoryError RetryError SchemaManager TaskMonitor array_fields auto_detect_json
        build_delete_query build_insert_query build_select_query build_update_query check_pool_health clean_worker
        cleanup cleanup_data connection connection_timeout create create_bulk create_pool create_schema cursor
        date_fields db_connection dbname delete drop_schema enable_json_adapters event_loop_policy execute exists
        fetchall get_all get_by_id get_pool get_transaction_manager getconn host init_db is_pool_active json_fields
        managed_transaction max_pool_size min_pool_size model_class original_error password ping_postgres pool_timeout
        port primary_key putconn pytest register_init_callback savepoint setup_data statement_timeout table_name
        transaction update user vector_fields with_schema with_test_data worker
    """,
    "Database Module": """
        ChatHistoryError ConnectionPoolError DB_COMMAND_TIMEOUT DB_CONNECTION_TIMEOUT DB_MAX_CONNECTIONS
        DB_MIN_CONNECTIONS DatabaseError DocumentError IngestionError POSTGRES_DATABASE POSTGRES_HOST POSTGRES_PASSWORD
        POSTGRES_PORT POSTGRES_USER basicConfig execute_with_retry fetch_multiple_documents get_idle_size get_max_size
        get_min_size get_pool_stats get_size max_retries on_event paginate_documents retry_delay test_async_db
    """,
    "Database Service": """
        --all --db-name --dump-and-commit --from --input --latest --name --output --push-after-commit --remote
        ColumnMatchError ConnectionError DBConnector DBOperator DatabaseSyncManager MockDataGenerator QueryError
        QueryLogger SchemaError SchemaRegistry SchemaSetup TestTransactionManager _format_for_logging
        _format_response_for_storage _format_variable _log_data _prepare_variables_for_storage
        clean_response_for_storage cleanup_non_protected clone_project clone_prompt_template close
        commit_dumps_to_git content create_savepoint create_schema db_sync_cli delete dump dump_all
        ensure_project_schema ensure_public_schema execute execute_raw fetch fetch_dict fetch_one fetch_row fk_column
        generate_related_rows generate_row get_active_e2e_tests get_by_column get_by_name get_by_uuid get_stats insert
        is_test_db llm_usage load_seed_data metadata object_models print_summary projects prompts pytest query_logger
        refresh_test_db restore restore_database rollback_to_savepoint run schema schema_exists slow_threshold_ms sync
        sync_from_dumps table_exists test_mode time_query transaction update upsert verify_schema vocabulary
        with_db_connection with_transaction workflow
    """,
    "core.db": """
        AsyncSession AsyncSessionFactory Base DEBUG DatabaseConfig DatabaseManager Mapped POSTGRES_DB TimestampMixin
        UUIDFieldMixin UUIDMixin UUIDStringMixin UUIDStringTimestampMixin UUIDTimestampMixin check_database_health
        create_engine database_lifespan execute execute_raw_sql get_async_session get_connection get_database_manager
        get_session_context getLogger health_check initialize_database mapped_column scalar
    """,
}

# the headings of the Database Module's API reference
SIGNATURES = [
    "get_connection_pool()",
    "close_connection_pool()",
    "health_check()",
    "get_db_connection()",
    "get_db_transaction()",
    "init_document_table()",
    "insert_document(name, code, content)",
    "upsert_document(name, code, content)",
    "get_document_by_code(code)",
    "get_list_of_documents(limit=100, offset=0)",
    "search_documents(search_term, limit=50)",
    "update_document_content(code, content)",
    "delete_document(code)",
    "get_document_count()",
    "init_chat_history_table()",
    "save_chat_history(user_id, thread_id, question, answer)",
    "get_recent_chat_history(thread_id, limit=10, offset=0)",
    "get_chat_message_by_id(message_id)",
    "delete_chat_message(message_id)",
    "delete_thread_history(thread_id)",
    "format_chat_history(chat_history)",
    "read_and_insert_md_file(file_path, code, encoding='utf-8')",
    "ingest_directory(directory_path, code_prefix='', file_extension='.md')",
    "ingest_files_batch(file_configs, encoding='utf-8')",
]


def section(system: str) -> str:
    """What the guide says for those who come from *system*, with the table of examples that no longer work."""
    return re.split(rf"^## From (?:the )?{re.escape(system)}$", GUIDE, flags=re.MULTILINE)[1].partition("\n## From")[0]


def questions(text: str) -> str:
    """The code in the first columns of its tables."""
    cells = [line.split("|", 2)[1] for line in text.splitlines() if line.startswith("| ")]
    return "\n".join(re.findall(r"`([^`]*)`", "\n".join(cells)))


def answers() -> str:
    """The code in the last columns of all tables."""
    cells = [line.rsplit("|", 2)[1] for line in GUIDE.splitlines() if line.startswith("| ")]
    return "\n".join(re.findall(r"`([^`]*)`", "\n".join(cells)))


@pytest.mark.parametrize("system", NAMES)
def test_every_name_is_mapped(system: str) -> None:
    """Who looks for a name of the old code finds it in the section of the system that it comes from."""
    text = section(system) + GUIDE.partition("## Old examples")[2]
    code = questions(text) + "\n".join(re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL))
    assert [name for name in NAMES[system].split() if not re.search(rf"(?<![\w-]){name}(?![\w-])", code)] == []


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_database_module_is_here_as_it_was(signature: str) -> None:
    """Its functions are here, take the same arguments in the same places, and more by name or behind them only."""
    name, _, arguments = signature.rstrip(")").partition("(")
    parameters = list(inspect.signature(getattr(db, name)).parameters.values())
    wanted = arguments.split(", ") if arguments else []
    positional = [each for each in parameters if each.kind is not each.KEYWORD_ONLY]
    assert [str(each.replace(annotation=each.empty)) for each in positional[: len(wanted)]] == wanted
    assert all(each.default is not each.empty for each in parameters[len(wanted) :])
    assert re.search(rf"\b{name}\b", section("Database Module"))


def test_what_the_answers_name_exists() -> None:
    """Functions, classes, fixtures, variables and commands of the last columns are there."""
    code = answers()
    ours = {*db.__all__, *db.repository.__all__, *fastapi.__all__, *testing.__all__, *vars(pytest_pgdatabase)}
    theirs = {*dir(asyncpg.Connection), *dir(db.Pool), *Settings.model_fields}
    plain = {word for word in code.split("\n") if re.fullmatch(r"[a-z]+_[a-z_]+|[A-Z][a-z]+[A-Z]\w+", word)}
    others = {"created_at", "is_protected", "updated_at", "total_ms", "uuid_text"}
    assert plain - ours - theirs - others == set()

    variables = re.findall(r"\b(?:DB|POSTGRES)_[A-Z_]+\b", "\n".join(re.findall(r"^\|.*$", GUIDE, re.MULTILINE)))
    known = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert [name for name in variables if not re.search(rf"\b{name}\b", known)] == []

    commands = get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    assert set(re.findall(r"python -m database (\w+)", code)) <= set(commands)
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [word for word in re.findall(r"^make ([\w-]+)", code, re.MULTILINE) if f"\n{word}:" not in targets] == []


def test_what_the_answers_name_is_tested() -> None:
    """Each function that the guide sends people to is called or asked for by tests that are about it."""
    tests = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "tests").glob("test_*.py")
        if path.name not in ("test_seed_names.py", "test_migration_guide.py")
    )
    ours = {*db.__all__, *db.repository.__all__, *fastapi.__all__, *testing.__all__, *vars(pytest_pgdatabase)}
    named = {word for word in re.findall(r"\b[A-Za-z_]\w+\b", answers()) if word in ours}
    assert len(named) > 80
    assert sorted(name for name in named if not re.search(rf"\b{name}\b", tests)) == []
