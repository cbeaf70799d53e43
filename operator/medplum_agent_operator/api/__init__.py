"""What users write and read: the MedplumAgent resource, its reasons and its annotations. Pure data, with no behaviour."""
