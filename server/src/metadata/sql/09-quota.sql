-- Version 9 of the metadata database: how many bytes a volume's files have, and how many they may have.

-- Both count modulo 2^64, as two's complement. The bytes of what is there already are counted by the program that runs this.
ALTER TABLE volume ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
-- NULL: any number.
ALTER TABLE volume ADD COLUMN quota INTEGER;
