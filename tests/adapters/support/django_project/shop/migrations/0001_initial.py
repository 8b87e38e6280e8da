"""The first step."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Makes the table."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            "Item", [("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=50))]
        ),
    )
