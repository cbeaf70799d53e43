"""What users write and read: the MedplumAgent resource, its reasons, its annotations. Pure data, no behaviour of its own."""
