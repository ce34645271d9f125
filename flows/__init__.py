"""What happens, in order: tables of contents, no data handling."""

from tasks.settings import prefect_defaults

prefect_defaults()  # Prefect reads its settings when it is first imported, which every flow does next
