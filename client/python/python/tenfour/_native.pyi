from typing import Any

_Info = tuple[int, str, int, list[tuple[str, str]], tuple[int, int], str, str]
_Page = tuple[list[tuple[str, int, str, int]], list[str], str | None]
_Counters = list[tuple[str, int]]

def set_timeout_scale(factor: float) -> None: ...
def transports() -> list[tuple[str, str | None]]: ...

class NativeClient:
    def __new__(
        cls,
        endpoints: list[str],
        http: str | None,
        access_key: str,
        secret_key: str,
        region: str,
        pool_bytes: int,
        zero_copy_from: int,
        kept_bytes: int,
        connect_timeout_s: float,
        answer_timeout_s: float,
        attempts: int,
        overwrite: bool,
    ) -> NativeClient: ...
    def put(
        self,
        bucket: str,
        key: str,
        data: Any,
        headers: list[tuple[str, str]],
        if_match: str | None,
        only_if_absent: bool,
        mode: str,
    ) -> tuple[str, str, str]: ...
    def get(
        self, bucket: str, key: str, start: int, stop: int | None, if_match: str | None
    ) -> tuple[bytes, _Info]: ...
    def first(self, bucket: str, key: str) -> tuple[bytes, _Info]: ...
    def get_into(
        self, bucket: str, key: str, buffer: Any, start: int, stop: int | None, if_match: str | None
    ) -> tuple[int, _Info]: ...
    def head(self, bucket: str, key: str) -> _Info: ...
    def delete(self, bucket: str, key: str, if_match: str | None) -> None: ...
    def list(
        self,
        bucket: str,
        prefix: str,
        delimiter: str,
        after: str | None,
        token: str | None,
        most: int,
    ) -> _Page: ...
    def transport(self) -> str: ...
    def counters(self) -> _Counters: ...
    def release_registrations(self) -> None: ...
    def close(self) -> None: ...
