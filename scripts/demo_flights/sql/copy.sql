COPY expected.csv FROM STDIN (FORMAT csv, HEADER match, NULL 'NA')
