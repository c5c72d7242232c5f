"""What finished runs say: tables, pictures, reports, attacks."""
