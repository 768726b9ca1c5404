-- What texts are read with in this session: its time zone, and the schemas in which it looks for names, for any role.
SELECT current_setting('TimeZone'),
       (SELECT coalesce(string_agg(quote_ident(name), ', ' ORDER BY number), '')
        FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, number))
