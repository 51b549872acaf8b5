# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Create the table."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models


def compare_bytes(apps: Any, schema_editor: Any) -> None:
    """Have MySQL take keys that differ by case or by an accent for different keys."""
    if schema_editor.connection.vendor == "mysql":
        schema_editor.execute(
            "ALTER TABLE inflight_effects ENGINE=InnoDB, "
            "MODIFY `key` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"
        )


class Migration(migrations.Migration):
    """The first."""

    initial = True

    operations = [
        migrations.CreateModel(
            name="Effect",
            fields=[
                ("key", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("fence", models.BigIntegerField()),
                ("done", models.BooleanField(default=False)),
                ("result", models.BinaryField(null=True)),
                ("at", models.DateTimeField()),
            ],
            options={"db_table": "inflight_effects"},
        ),
        migrations.RunPython(compare_bytes, migrations.RunPython.noop, atomic=False),
    ]
