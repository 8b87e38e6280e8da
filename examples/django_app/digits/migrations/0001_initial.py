"""The table of readings."""

# mypy: allow-subclassing-any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    """As `makemigrations` wrote it."""

    initial = True

    dependencies = (migrations.swappable_dependency(settings.AUTH_USER_MODEL),)

    operations = (
        migrations.CreateModel(
            name="Reading",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("digit", models.PositiveSmallIntegerField()),
                ("confidence", models.FloatField(help_text="From 0 to 1.")),
                ("version", models.CharField(db_index=True, help_text="The backend that answered.", max_length=100)),
                ("read_at", models.DateTimeField(auto_now_add=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="readings",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={"ordering": ("-read_at",)},
        ),
    )
