"""Where factors act: beside a module's product, or in place of its weight."""
