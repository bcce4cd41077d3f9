"""
Flat async functions for documents, chat history, Markdown ingestion and any table on PostgreSQL; `import database`.

For tables of your own: `from database import repository as db`.

Rows are plain dicts, errors are `DatabaseError`s. Without any configuration a private PostgreSQL is started; with
DATABASE_URL, or POSTGRES_HOST and the like, that server is used.
"""

from . import embedded, repository
from .chat_history import (
    delete_chat_history_before,
    delete_chat_message,
    delete_thread_history,
    format_chat_history,
    get_chat_message_by_id,
    get_recent_chat_history,
    get_user_threads,
    init_chat_history_table,
    save_chat_history,
    search_chat_history,
)
from .connect_db import (
    Connection,
    Pool,
    close_connection_pool,
    database_lifespan,
    execute_with_retry,
    get_connection_pool,
    get_db_connection,
    get_db_transaction,
    get_pool_stats,
    health_check,
    health_report,
    is_pool_active,
    ping_postgres,
    register_init_callback,
    run_in_transaction,
    unregister_init_callback,
)
from .document import (
    delete_document,
    get_document_by_code,
    get_document_count,
    get_documents_by_codes,
    get_list_of_documents,
    init_document_table,
    insert_document,
    iter_documents,
    list_documents_page,
    search_documents,
    update_document_content,
    upsert_document,
)
from .exceptions import (
    ChatHistoryError,
    ColumnMatchError,
    ConnectionPoolError,
    DatabaseError,
    DatabaseNotAvailableError,
    DocumentError,
    IngestionError,
    InvalidDataError,
    OutcomeUnknownError,
    PoolTimeoutError,
    RecordNotFoundError,
    RepositoryError,
    SchemaError,
)
from .ingestion import ingest_directory, ingest_files_batch, read_and_insert_md_file
from .search.ranking import search_sections
from .search.refresh import refresh_search_index
from .search.suggestions import suggest_terms
from .settings import Settings, configure, get_settings

__version__ = "2.0.0"

__all__ = [
    "ChatHistoryError",
    "ColumnMatchError",
    "Connection",
    "ConnectionPoolError",
    "DatabaseError",
    "DatabaseNotAvailableError",
    "DocumentError",
    "IngestionError",
    "InvalidDataError",
    "OutcomeUnknownError",
    "Pool",
    "PoolTimeoutError",
    "RecordNotFoundError",
    "RepositoryError",
    "SchemaError",
    "Settings",
    "close_connection_pool",
    "configure",
    "database_lifespan",
    "delete_chat_history_before",
    "delete_chat_message",
    "delete_document",
    "delete_thread_history",
    "embedded",
    "execute_with_retry",
    "format_chat_history",
    "get_chat_message_by_id",
    "get_connection_pool",
    "get_db_connection",
    "get_db_transaction",
    "get_document_by_code",
    "get_document_count",
    "get_documents_by_codes",
    "get_list_of_documents",
    "get_pool_stats",
    "get_recent_chat_history",
    "get_settings",
    "get_user_threads",
    "health_check",
    "health_report",
    "ingest_directory",
    "ingest_files_batch",
    "init_chat_history_table",
    "init_document_table",
    "insert_document",
    "is_pool_active",
    "iter_documents",
    "list_documents_page",
    "ping_postgres",
    "read_and_insert_md_file",
    "refresh_search_index",
    "register_init_callback",
    "repository",
    "run_in_transaction",
    "save_chat_history",
    "search_chat_history",
    "search_documents",
    "search_sections",
    "suggest_terms",
    "unregister_init_callback",
    "update_document_content",
    "upsert_document",
]
