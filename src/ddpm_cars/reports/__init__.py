"""What was measured, as pages, tables and plots."""

from ddpm_cars.reports.page import write_report

__all__ = ["write_report"]
