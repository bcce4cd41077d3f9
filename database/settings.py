"""
Settings: arguments beat the environment, the environment beats `.env`, `.env` beats the defaults.

`.env.example` lists every name. Where nothing says which server to use, the package brings its own (embedded/).
"""

from __future__ import annotations

import ipaddress
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from .exceptions import ConnectionPoolError

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
if TYPE_CHECKING:
    Secret = SecretStr | str  # what may be given; what is stored is always a SecretStr
else:
    Secret = SecretStr
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _names(*names: str) -> Any:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """
    Where the database is and how to use it; frozen. Times are in seconds, but for `slow_query_ms`.

    `Settings(min_connections=1)` sets a value in code, everything else still comes from the environment. A wrong value
    raises pydantic's `ValidationError` that names the environment variable, never its value.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: Secret | None = Field(default=None, validation_alias="DATABASE_URL")
    host: str | None = Field(default=None, validation_alias=_names("POSTGRES_HOST", "PGHOST"))
    port: int | None = Field(default=None, ge=1, le=65535, validation_alias=_names("POSTGRES_PORT", "PGPORT"))
    user: str | None = Field(default=None, validation_alias=_names("POSTGRES_USER", "PGUSER"))
    password: Secret | None = Field(default=None, validation_alias=_names("POSTGRES_PASSWORD", "PGPASSWORD"))
    database: str | None = Field(
        default=None, validation_alias=_names("POSTGRES_DATABASE", "POSTGRES_DB", "PGDATABASE")
    )
    sslmode: SslMode | None = Field(default=None, validation_alias=_names("POSTGRES_SSLMODE", "PGSSLMODE"))
    sslrootcert: Path | None = Field(default=None, validation_alias=_names("POSTGRES_SSLROOTCERT", "PGSSLROOTCERT"))
    application_name: str = Field(default="database.py", validation_alias=_names("DB_APPLICATION_NAME", "PGAPPNAME"))

    min_connections: int = Field(default=5, ge=0, validation_alias="DB_MIN_CONNECTIONS")
    max_connections: int = Field(default=20, ge=1, validation_alias="DB_MAX_CONNECTIONS")
    max_waiting: int = Field(default=0, ge=0, validation_alias="DB_MAX_WAITING")
    connection_timeout: _Seconds = Field(default=30, validation_alias="DB_CONNECTION_TIMEOUT")
    command_timeout: _Seconds = Field(default=60, validation_alias="DB_COMMAND_TIMEOUT")
    statement_timeout: _Seconds | None = Field(default=None, validation_alias="DB_STATEMENT_TIMEOUT")
    max_idle: _Seconds = Field(default=300, validation_alias="DB_MAX_IDLE")
    max_lifetime: _Seconds = Field(default=3600, validation_alias="DB_MAX_LIFETIME")
    pooler: Literal["none", "transaction"] = Field(default="none", validation_alias="DB_POOLER")
    batching: Literal["on", "off"] = Field(default="on", validation_alias="DB_BATCHING")
    batch_max_rows: int = Field(default=256, ge=1, validation_alias="DB_BATCH_MAX_ROWS")
    batch_max_bytes: int = Field(default=4 * 2**20, ge=1, validation_alias="DB_BATCH_MAX_BYTES")

    query_log: Literal["on", "off"] = Field(default="off", validation_alias="DB_QUERY_LOG")
    slow_query_ms: _Milliseconds | None = Field(default=None, validation_alias="DB_SLOW_QUERY_MS")
    echo: Literal["on", "off"] = Field(default="off", validation_alias="DB_ECHO")
    query_parameters: Literal["on", "off"] = Field(default="off", validation_alias="DB_QUERY_PARAMETERS")

    embedded: Literal["auto", "never"] = Field(default="auto", validation_alias="DB_EMBEDDED")
    embedded_dir: Path | None = Field(default=None, validation_alias="DB_EMBEDDED_DIR")
    postgres_bin: Path | None = Field(default=None, validation_alias="DB_POSTGRES_BIN")

    if not TYPE_CHECKING:  # a checker knows the arguments from the fields

        def __init__(self, **values: Any) -> None:
            # Not pydantic's populate_by_name: it would also take the variables USER and HOST for the fields' values.
            fields = type(self).model_fields
            for name in values.keys() - fields.keys():
                # unknown variables of the environment belong to somebody else; an unknown argument is a mistake
                if not name.startswith("_"):
                    raise TypeError(f"Settings has no {name!r}; it has {', '.join(fields)}")
            values = {_variables(fields[n])[0] if n in fields else n: v for n, v in values.items()}
            try:
                super().__init__(**values)
            except ValidationError as exc:
                values.clear()  # there may be a password among them, for whatever prints local variables
                raise exc.with_traceback(None)  # noqa: B904 (the same one)

    @field_validator("database_url")
    @classmethod
    def _check_url(cls, url: Secret | None) -> Secret | None:
        if url is not None:
            _check_url(_reveal(url))
        return url

    @field_validator("sslrootcert")
    @classmethod
    def _check_certificate(cls, path: Path | None) -> Path | None:
        if path is not None and str(path) != "system" and not path.is_file():
            raise ValueError("there is no such file; name the PEM file with the root certificate, or 'system'")
        return path

    @model_validator(mode="after")
    def _check_pool(self) -> Self:
        if self.min_connections > self.max_connections:
            if "min_connections" not in self.model_fields_set:
                object.__setattr__(self, "min_connections", self.max_connections)
                return self
            raise ValueError(
                f"DB_MIN_CONNECTIONS ({self.min_connections}) is more than DB_MAX_CONNECTIONS ({self.max_connections})"
            )
        return self

    @property
    def names_a_server(self) -> bool:
        """True where the settings say which server to use; False: the embedded one."""
        return any(
            value is not None
            for value in (self.database_url, self.host, self.port, self.user, self.password, self.database)
        )

    @property
    def measures_queries(self) -> bool:
        """True where one of DB_QUERY_LOG, DB_SLOW_QUERY_MS and DB_ECHO asks for it."""
        return self.query_log == "on" or self.echo == "on" or self.slow_query_ms is not None

    @property
    def dsn(self) -> str:
        """
        The connection URI for asyncpg, **with the password**.

        What DATABASE_URL leaves out is filled from the single variables, as libpq does. Without an `sslmode` a server
        on another machine must prove who it is (`verify-full`); loopback and unix sockets are used as they are.
        """
        url = urlsplit(_without_driver(_reveal(self.database_url)) if self.database_url else "postgresql://")
        credentials, at, hosts = url.netloc.rpartition("@")
        url_user, _, url_password = credentials.partition(":") if at else ("", "", "")
        query = dict(parse_qsl(url.query, keep_blank_values=True))

        user = unquote(url_user) or query.pop("user", "") or self.user
        password = unquote(url_password) or query.pop("password", "")
        if not password and self.password:
            password = _reveal(self.password)
        database = unquote(url.path[1:]) or query.pop("dbname", "") or query.pop("database", "") or self.database
        if not hosts and "host" not in query:
            query["host"] = self.host or "localhost"
            if self.port:
                query.setdefault("port", str(self.port))
        by_place = "prefer" if _is_local(hosts or query.get("host", "")) else "verify-full"
        query.setdefault("sslmode", self.sslmode or by_place)
        if self.sslrootcert:
            query.setdefault("sslrootcert", str(self.sslrootcert))
        if query.get("sslrootcert") == "system":  # libpq's name for what is the default here
            del query["sslrootcert"]

        netloc = hosts
        if user or password:
            netloc = quote(user or "", safe="") + (":" + quote(password, safe="") if password else "") + "@" + hosts
        # "postgresql:///" with an empty netloc needs its slashes; urlunsplit would drop them
        return f"postgresql://{netloc}/{quote(database or '', safe='')}?{urlencode(query, quote_via=quote)}"

    @property
    def redacted_url(self) -> str:
        """The connection URI without password, for reports and messages."""
        return redact(self.dsn)


def redact(dsn: str) -> str:
    """The URI *dsn* without its password and without the options that may hold one."""
    url = urlsplit(dsn)
    credentials, at, hosts = url.netloc.rpartition("@")
    kept = {key: value for key, value in parse_qsl(url.query) if key in ("host", "port", "sslmode")}
    query = "?" + urlencode(kept, safe="/,") if kept else ""
    return f"{url.scheme}://{credentials.partition(':')[0]}{at}{hosts}{url.path}{query}"


def _variables(field: FieldInfo) -> list[str]:
    """The names of a setting in the environment, the best one first."""
    alias = field.validation_alias
    return [str(name) for name in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]


def _reveal(secret: Secret) -> str:
    return secret if isinstance(secret, str) else secret.get_secret_value()


def _without_driver(url: str) -> str:
    """SQLAlchemy's `postgresql+asyncpg://` and `postgres://` as `postgresql://`."""
    scheme, colon, rest = url.strip().partition("://")
    return ("postgresql" if scheme.partition("+")[0] in ("postgres", "postgresql") else scheme) + colon + rest


def _check_url(url: str) -> None:
    scheme, separator, rest = _without_driver(url).partition("://")
    if not separator:
        raise ValueError("it is not a URL; write postgresql://user:password@host:5432/database")
    if scheme != "postgresql":
        raise ValueError("it must begin with postgresql:// (also postgres:// and postgresql+asyncpg://)")
    query = _read_query("postgresql://" + rest)
    if query is None:
        raise ValueError(
            "it cannot be read; write postgresql://user:password@host:5432/database "
            "and percent-encode special characters of the password"
        )
    if (sslmode := query.get("sslmode")) is not None and sslmode not in _SSL_MODES:
        raise ValueError(f"unknown sslmode; it must be one of {', '.join(_SSL_MODES)}")


def _read_query(url: str) -> dict[str, str] | None:
    """The parameters of a URL, None where it cannot be read: an exception would hold pieces of the password."""
    try:
        parts = urlsplit(url)
        if parts.fragment or "@" in parts.path:  # a password with # or / in it, which was cut in two
            return None
        for host in parts.netloc.rpartition("@")[2].split(","):
            port = host.rpartition("]")[2].partition(":")[2]
            if port and not 1 <= int(port) <= 65535:
                return None
        return dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        return None


def _is_local(hosts: str) -> bool:
    """True where every one of *hosts* is a unix socket or a loopback address."""
    return all(_is_local_host(host) for host in hosts.split(","))


def _is_local_host(host: str) -> bool:
    host = unquote(host)
    if host.startswith(("/", "@")):
        return True
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name in ("", "localhost")


_lock = threading.Lock()
_configured: dict[str, Settings] = {}


def configure(settings: Settings | None, name: str = "default") -> None:
    """
    Use *settings* for the database *name* from the next opening of its pool on; None forgets them.

    An open pool keeps what it was opened with: call `close_connection_pool()` first.
    """
    with _lock:
        if settings is None:
            _configured.pop(name, None)
        else:
            _configured[name] = settings


def configured(name: str = "default") -> Settings | None:
    """What `configure` was given last for the database *name*."""
    with _lock:
        return _configured.get(name)


def get_settings(name: str = "default") -> Settings:
    """
    The settings of the database *name*: those of `configure`, else the environment's and `.env`'s.

    A further database has its URL in `<NAME>_DATABASE_URL` ("read-replica": READ_REPLICA_DATABASE_URL) and shares the
    other variables. Raises `ConnectionPoolError` that names the variable where a value is wrong, or where nothing says
    which database is meant.
    """
    with _lock:
        if name in _configured:
            return _configured[name]
    try:
        settings = Settings()
        if name == "default":
            return settings
        return settings.model_copy(update={"database_url": _read_url(name)})
    except ValidationError as exc:
        raise ConnectionPoolError(f"wrong settings: {_explain(exc)}", original_error=exc) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConnectionPoolError(f"cannot read the file .env: {type(exc).__name__}", original_error=exc) from exc


def _read_url(name: str) -> SecretStr:
    """The URL of a further database, from a variable that has its name in front."""
    variable = re.sub(r"\W", "_", name.upper()) + "_DATABASE_URL"
    reader = create_model(
        "reader",
        __base__=Settings,
        url=(SecretStr | None, Field(default=None, validation_alias=variable)),
    )
    url: SecretStr | None = reader().url  # type: ignore[attr-defined]  # made a line above
    if url is None:
        raise ConnectionPoolError(
            f"no settings for the database {name!r}: set {variable}, or call configure(Settings(…), {name!r})"
        )
    try:
        _check_url(url.get_secret_value())
    except ValueError as exc:
        exc.__traceback__ = None  # its frames hold the URL
        raise ConnectionPoolError(f"wrong settings: {variable}: {exc}", original_error=exc) from exc
    return url


def _explain(exc: ValidationError) -> str:
    """Every wrong variable by its names, without its value."""
    return "; ".join(
        ": ".join([*(_all_names(str(place)) for place in error["loc"][:1]), error["msg"].removeprefix("Value error, ")])
        for error in exc.errors(include_input=False, include_url=False, include_context=False)
    )


def _all_names(variable: str) -> str:
    """`POSTGRES_PORT or PGPORT` for either: pydantic reports the first name, the value may stand under another."""
    for field in Settings.model_fields.values():
        if variable in (names := _variables(field)):
            return " or ".join(names)
    return variable
