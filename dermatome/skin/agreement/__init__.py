"""HPA's annotation of antibodies compared with what their cores measure."""
