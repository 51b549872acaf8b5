# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The parts that differ from broker to broker: RedisBroker, RabbitMQ."""
