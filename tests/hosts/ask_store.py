"""Asks a store that speaks S3 for what the owner of a key may try, by Python alone: it runs on a host of the lab."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import re
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

WHERE = ("us-east-1", "s3", "aws4_request")


def ask(
    key: str, secret: str, authority: str, method: str, path: str, query: str = "", body: bytes = b""
) -> tuple[int, str]:
    """Return its code and its answer, signed as version 4 of AWS has it."""
    now = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}"
    asked = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
    words = urllib.parse.urlencode(asked, quote_via=urllib.parse.quote, safe="")
    heads = {"host": "store", "x-amz-date": now, "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
    heads |= {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()}
    names = ";".join(sorted(heads))
    lines = [method, path, words, *(f"{name}:{heads[name]}" for name in sorted(heads)), "", names]
    scope = "/".join((now[:8], *WHERE))
    digest = hashlib.sha256("\n".join([*lines, heads["x-amz-content-sha256"]]).encode()).hexdigest()
    signing = f"AWS4{secret}".encode()
    for part in (now[:8], *WHERE):
        signing = hmac.new(signing, part.encode(), "sha256").digest()
    signed = hmac.new(signing, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}".encode(), "sha256").hexdigest()
    heads["authorization"] = f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={signed}"
    request = urllib.request.Request(f"https://store{path}?{words}", body or None, heads, method=method)
    context = ssl.create_default_context(cadata=authority)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def versions(key: str, secret: str, authority: str, bucket: str) -> set[tuple[str, str]]:
    """Return what there is, and was, of all that is in a bucket."""
    code, said = ask(key, secret, authority, "GET", f"/{bucket}", "versions&max-keys=1000")
    assert code == 200, said
    assert "<IsTruncated>false" in said
    return set(re.findall(r"<Version><Key>(.*?)</Key><VersionId>(.*?)</VersionId>", said))


def attack(key: str, secret: str, authority: str, bucket: str) -> None:
    """Do away with all that is in a bucket, and print the codes of what should be refused."""
    there = versions(key, secret, authority, bucket)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=9)
    sooner = (
        f"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{soon:%Y-%m-%dT%H:%M:%SZ}</RetainUntilDate></Retention>"
    )
    tries = [("DELETE", f"/{bucket}/{name}", f"versionId={number}", b"") for name, number in there]
    tries += [("PUT", f"/{bucket}/{name}", f"retention&versionId={number}", sooner.encode()) for name, number in there]
    unlocked = b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
    tries += [("PUT", f"/{bucket}", "object-lock", unlocked), ("DELETE", f"/{bucket}", "", b"")]
    suspended = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
    tries += [("PUT", f"/{bucket}", "versioning", suspended)]
    print(*sorted({ask(key, secret, authority, *one)[0] for one in tries}))
    for name, _number in there:
        ask(key, secret, authority, "PUT", f"/{bucket}/{name}", "", b"junk")
        ask(key, secret, authority, "DELETE", f"/{bucket}/{name}")
    print(there <= versions(key, secret, authority, bucket))


if __name__ == "__main__":
    given = sys.stdin.read()
    if sys.argv[1] == "attack":
        attack(sys.argv[2], sys.argv[3], given, sys.argv[4])
    else:
        rule = f"<DefaultRetention><Mode>COMPLIANCE</Mode><Days>{sys.argv[5]}</Days></DefaultRetention>"
        lock = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>{}</Rule>"
        told = f"{lock.format(rule)}</ObjectLockConfiguration>".encode()
        answer = ask(sys.argv[2], sys.argv[3], given, "PUT", f"/{sys.argv[4]}", "object-lock", told)
        sys.exit(0 if answer[0] == 200 else str(answer))
