"""Mail by the machine's own mailer, for users who are not looking when a job is held.

A mail that cannot be sent is logged, and the program goes on. A machine without a mailer is refused before the program
begins. Only `sendmail -t` is used, which every mailer provides: no server, no password.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import shutil
import socket
import subprocess
from email import policy
from email.message import EmailMessage

import attrs

from hyperflow.errors import ConfigurationError

logger = logging.getLogger("hyperflow")

SEND_SECONDS = 60.0
"""Seconds for the mailer to finish."""

ONE_LINE = policy.default.clone(max_line_length=998)
"""A subject stays in one line, as far as RFC 5322 allows: folded at 78, a long one begins with a line that is empty."""

ADMINISTRATORS = ("/usr/sbin", "/usr/lib", "/sbin")
"""Where `sendmail` is, if it is not in PATH."""


@attrs.frozen
class Mailer:
    """Sends mail to one address; make it with `mailer`."""

    program: str
    address: str

    async def send(self, subject: str, text: str) -> None:
        """Send a mail; a failure is logged. Cancelling ends the mailer."""
        message = EmailMessage(policy=ONE_LINE)
        message["To"] = self.address
        message["From"] = f"{getpass.getuser()}@{socket.gethostname()}"
        message["Subject"] = " ".join(subject.split())  # a line break would end the header
        message.set_content(text)
        process = await asyncio.create_subprocess_exec(
            *(self.program, "-t", "-i"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            async with asyncio.timeout(SEND_SECONDS):
                _, said = await process.communicate(bytes(message))
        except TimeoutError:
            logger.warning("no mail to %s: %s took more than %.0f s", self.address, self.program, SEND_SECONDS)
        else:
            if code := process.returncode:
                words = said.decode(errors="replace").strip()[-300:]
                logger.warning("no mail to %s: %s ended with %s: %s", self.address, self.program, code, words)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def mailer(address: str) -> Mailer:
    """Return a mailer for an address.

    Raises:
        ConfigurationError: It is no address, or this machine has no mailer.
    """
    if not address or any(letter.isspace() or letter in ",;<>" for letter in address):
        raise ConfigurationError(f"mail={address!r}: one address is needed, such as anna@example.org")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *ADMINISTRATORS])
    program = shutil.which("sendmail", path=path)
    if program is None:
        raise ConfigurationError(
            f"mail={address!r}: this machine has no mailer (sendmail); leave it out, or let Slurm send mail about its "
            'jobs: SbatchOptions(mail_type="FAIL", mail_user=...)'
        )
    return Mailer(program, address)
