"""What did rejection do to a data set? A table of samples goes in; a page and a figure come out."""

from rsf.audit.columns import read
from rsf.audit.measure import audit
from rsf.audit.report import AuditReport, Clipping

__all__ = ["AuditReport", "Clipping", "audit", "read"]
