"""`manage.py prepare`: create the database and two users."""

# mypy: allow-subclassing-any

import secrets
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import BaseCommand, call_command


class Command(BaseCommand):
    """Creates the database and the users. It may run again."""

    help = "Creates the database and the users ada (reads digits) and grace (staff), and prints their password."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take a password."""
        parser.add_argument("--password", help="The password of both users (default: a random password).")

    def handle(self, *, password: str | None, **options: Any) -> None:
        """Run."""
        call_command("migrate", verbosity=0)
        chosen = password or secrets.token_urlsafe(9)
        for name, is_staff in (("ada", False), ("grace", True)):
            user, _ = get_user_model().objects.get_or_create(username=name)
            user.is_staff = is_staff
            user.set_password(chosen)
            user.save()
            if is_staff:
                user.user_permissions.add(Permission.objects.get(codename="view_reading"))
        self.stdout.write("ada may read digits, grace may also split the traffic")
        if password is None:
            self.stdout.write(f"the password of both is {chosen}")
