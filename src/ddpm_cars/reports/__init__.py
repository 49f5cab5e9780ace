"""What was measured, as pages, tables and plots."""

from ddpm_cars.reports.page import write_report
from ddpm_cars.reports.quantities import QUANTITIES

__all__ = ["QUANTITIES", "write_report"]
