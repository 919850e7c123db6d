"""An SFTP server on loopback: paramiko's other end, with one user and one folder."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko

USER = "me"
PASSWORD = "hunter2/@:"  # of which each sign has to be percent-encoded in a URL

_key = paramiko.RSAKey.generate(2048)


class _Login(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        right = (username, password) == (USER, PASSWORD)
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def get_allowed_auths(self, username: str) -> str:
        return "password"


class _Handle(paramiko.SFTPHandle):
    def __init__(self, server: SftpServer, flags: int, path: str) -> None:
        super().__init__(flags)
        self._server = server
        self.readfile = open(path, "rb")  # noqa: SIM115 - SFTPHandle closes it

    def read(self, offset: int, length: int) -> Any:
        self._server.read_at.append(offset)
        self._server.before_read(offset)
        return super().read(offset, length)

    def stat(self) -> Any:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class _Files(paramiko.SFTPServerInterface):
    def __init__(self, login: Any, server: SftpServer) -> None:
        super().__init__(login)
        self._server = server

    def _local(self, path: str) -> str:
        return str(self._server.folder) + self.canonicalize(path)

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(os.stat(self._local(path)))
        except OSError as e:
            return paramiko.SFTPServer.convert_errno(e.errno)

    lstat = stat

    def open(self, path: str, flags: int, attr: Any) -> Any:
        try:
            return _Handle(self._server, flags, self._local(path))
        except OSError as e:
            return paramiko.SFTPServer.convert_errno(e.errno)


class SftpServer:
    """Serves `folder` while the block runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read_at: list[int] = []
        self.logins = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._transports: list[paramiko.Transport] = []

    def before_read(self, offset: int) -> None:
        """Replaced by tests that break something."""

    def url(self, path: str, password: str = "hunter2%2F%40%3A") -> str:
        host, port = self._socket.getsockname()
        return f"sftp://{USER}:{password}@{host}:{port}{path}"

    def hang_up(self) -> None:
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> SftpServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self.hang_up()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(_key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, self)
            self._transports.append(transport)
            self.logins += 1
            with suppress(paramiko.SSHException, EOFError):
                transport.start_server(event=threading.Event(), server=_Login())
