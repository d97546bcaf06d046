-- The warehouse's database roles. `capsfusion db upgrade` runs this file; an administrator can run it with psql -f.
-- Running this file again changes nothing.
--
--   capsfusion_owner   owns the schema and migrates it
--   capsfusion_loader  reads and writes rows: for runs, replays, checks
--   capsfusion_reader  reads: for queries, exports, the captions view
--
-- These roles cannot log in: grant one of them to each login. The roles are common to all databases of a server. If the
-- login that runs this file may not create them, this login stays the owner of its tables, and a warning says what an
-- administrator can run.

do $$
declare
    roles constant text[] := array['capsfusion_owner', 'capsfusion_loader', 'capsfusion_reader'];
    each_role text;
    missing text[];
    statement text;
    needed record;
begin
    -- Create the roles. The migration of another database may create them at the same moment.
    foreach each_role in array roles loop
        begin
            if not exists (select from pg_roles where rolname = each_role) then
                execute format('create role %I nologin', each_role);
            end if;
        exception when insufficient_privilege or duplicate_object or unique_violation then
            null;
        end;
    end loop;
    missing := array(select r from unnest(roles) r where not exists (select from pg_roles where rolname = r));
    if cardinality(missing) > 0 then
        raise warning 'this login may not create the database roles %, so it stays the owner of all tables; to get the'
            ' roles, ask an administrator to run: %; grant capsfusion_owner to <this login>; then run'
            ' `capsfusion db upgrade` again',
            array_to_string(missing, ', '),
            (select string_agg('create role ' || m, '; ') from unnest(missing) m);
        return;
    end if;

    -- A login that has created a role is not a member of the role, but may make itself a member.
    begin
        if not pg_has_role('capsfusion_owner', 'usage') then
            grant capsfusion_owner to current_user;
        end if;
    exception when insufficient_privilege then
        null;
    end;

    begin
        -- Make capsfusion_owner the owner of all that this login has created.
        -- First the schema, because the owner of a table needs the right to create tables in the schema.
        if exists (
            select from pg_namespace where nspname = 'capsfusion' and nspowner <> 'capsfusion_owner'::regrole
        ) then
            alter schema capsfusion owner to capsfusion_owner;
        end if;
        for statement in
            select format('alter %s capsfusion.%I owner to capsfusion_owner', kind, relname)
            from pg_class
            join (values ('r', 'table'), ('p', 'table'), ('v', 'view'), ('m', 'materialized view')) kinds (relkind, kind)
                on kinds.relkind = pg_class.relkind::text
            where relnamespace = 'capsfusion'::regnamespace and relowner <> 'capsfusion_owner'::regrole
        loop
            execute statement;
        end loop;

        grant usage on schema capsfusion to capsfusion_loader, capsfusion_reader;
        -- `select … for update` needs the right to update, too. Only the owner may truncate.
        grant select, insert, update, delete on all tables in schema capsfusion to capsfusion_loader;
        revoke insert, update, delete on capsfusion.schema_version from capsfusion_loader;
        grant select on all tables in schema capsfusion to capsfusion_reader;

        -- Grant the same rights on tables that the owner creates later by hand.
        alter default privileges for role capsfusion_owner in schema capsfusion
            grant select, insert, update, delete on tables to capsfusion_loader;
        alter default privileges for role capsfusion_owner in schema capsfusion
            grant select on tables to capsfusion_reader;
    exception when insufficient_privilege then
        raise warning 'the rights of capsfusion_loader and capsfusion_reader are not set: this login is not a member of'
            ' capsfusion_owner, or does not own the tables; ask an administrator to run: grant capsfusion_owner to'
            ' <this login>; then run `capsfusion db upgrade` again';
        return;
    end;

    -- By default every login may connect and create temporary tables, which loads need.
    -- Grant these rights again if an administrator has revoked them.
    for needed in
        select privilege, r as grantee
        from (values
            ('connect', array['capsfusion_owner', 'capsfusion_loader', 'capsfusion_reader']),
            ('temporary', array['capsfusion_owner', 'capsfusion_loader'])
        ) rights (privilege, grantees), unnest(grantees) r
        where not has_database_privilege(r, current_database(), privilege)
    loop
        statement := format('grant %s on database %I to %I', needed.privilege, current_database(), needed.grantee);
        begin
            execute statement;
        exception when insufficient_privilege then
            raise warning '% lacks the right to % in this database, and this login may not grant it;'
                ' ask the owner of the database to run: %', needed.grantee, needed.privilege, statement;
        end;
    end loop;
end
$$;
