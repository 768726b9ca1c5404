-- The rights on a table of the application that this role does not have.
SELECT needed.privilege
FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed (privilege)
WHERE NOT has_table_privilege(%(oid)s::oid, needed.privilege)
