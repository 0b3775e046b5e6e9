"""What results are shown with: tables, figures as data, rows of long tables. Draws nothing."""
