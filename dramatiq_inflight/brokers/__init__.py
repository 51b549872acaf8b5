# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What is particular to a broker: RedisBroker, RabbitMQ."""
