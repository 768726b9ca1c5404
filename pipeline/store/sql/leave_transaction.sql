-- Put back what the transaction had set before.
SELECT set_config('lock_timeout', %s, true), set_config('datestyle', %s, true), set_config('intervalstyle', %s, true),
       set_config('TimeZone', %s, true), set_config('search_path', %s, true)
