-- Captions of two models for the same 40,000 pairs, in units of 1,000. Every seventh caption of the first model is
-- rejected, and every ninth of the second. The queries in docs/queries.md search for some of these values.
set search_path = capsfusion;

insert into fusions select id, 'demo', null, 'm', 'p', 't', 'native', 'float32', 3, 80, '{}', now()
from unnest(array['3f9a1c20b7de', '81d0e4c2a95b']) id;

insert into shards (source, path, etag, shard_id, side, size_bytes, arrived_at, state, rows, dropped, error)
select '/data', side || '/part-' || n, 'e', first || case n when 0 then '1b2c3d4e5f6a7b8' else n::text end, side, 9,
    now(), case n when 3 then 'failed' else 'pulled' end, 90, '{"unsafe": 3}', case n when 3 then 'cut short' end
from generate_series(0, 199) n, (values ('a', 'laion_2b'), ('b', 'laion_coco')) sides (first, side);

create temp table made as
select *,
    case when n % 2000 = 5 then 'The image is not available.'
        else concat_ws(' ', 'A', (array['red', 'green', 'blue', 'old'])[1 + n % 4],
            case n % 997 when 8 then 'bicycle' else 'house' end, 'in town', n, 'as model', model, 'sees it.')
    end as caption,
    'unit-' || 40 * model + n / 1000 as unit,
    case when model = 0 then timestamptz '2026-11-10 10:00+00' + (n / 20000) * interval '1 day'
        when n >= 39000 then '2026-11-12 13:00+00' else '2026-11-12 10:00+00' end as loaded,
    case when n % (7 + 2 * model) = 0
        then array['truncated'] || case n % 350 when 0 then array['repetition'] end
    end as why
from generate_series(0, 39999) n, (values (0, '3f9a1c20b7de'), (1, '81d0e4c2a95b')) models (model, fusion);

insert into work_units (unit_id, fusion_id, interval_start, interval_end, dag_run_id, state, tries, loaded_at,
    rows_in, accepted, rejected, tokens_estimated, prompt_tokens, caption_tokens, gpu_seconds, rows_per_second)
select unit, fusion, date_trunc('day', loaded), date_trunc('day', loaded) + interval '1 day', 'run 1', 'loaded', 1,
    loaded, count(*), count(why is null or null), count(why), 200000, 160000, 37000, 50, 20
from made group by unit, fusion, loaded;
insert into work_units (unit_id, fusion_id, interval_start, interval_end, state, rows_in, tokens_estimated, error)
values ('unit-80', '81d0e4c2a95b', now(), now(), 'failed', 500, 100000, 'out of memory'),
    ('unit-81', '81d0e4c2a95b', now(), now(), 'planned', 500, 100000, null);

insert into plans (fusion_id, interval_start, interval_end, dag_run_id, pairs, already_fused, planned)
values ('3f9a1c20b7de', '2026-11-10', '2026-11-11', 'run 1', 20500, 400, 20000);

insert into gate_holds (unit_id, dag_run_id, rows_in, rejected, problem, details, answer, answered_by, answered_at)
values ('unit-80', 'run 1', 500, 200, 'that is more than 25%', '', 'keep out', 'Ada', now());

create temp view columns as
select md5(n::text)::uuid as pair_id, fusion as fusion_id, 'https://example.com/images/' || n || '.jpg' as image_url,
    'raw ' || case n % 997 when 8 then 'bicycle ' else '' end || n as laion_2b, 'synthetic ' || n as laion_coco, caption as capsfusion,
    n - case n % 500 when 1 then 1 else 0 end as laion_hash, 0.3 as similarity, 0.05 as punsafe, 0.1 as pwatermark,
    0.9 as raw_recall, 0.8 as synthetic_recall, 0.3 as novelty, 0 as repetition, 0.5 as source_overlap,
    160 as prompt_tokens, 37 as caption_tokens, 'stop' as finish_reason,
    'a' || case n % 200 when 0 then '1b2c3d4e5f6a7b8' else (n % 200)::text end as laion_2b_shard, n as laion_2b_row,
    'b' || case n % 199 when 0 then '1b2c3d4e5f6a7b8' else (n % 199)::text end as laion_coco_shard, n as laion_coco_row,
    unit as unit_id, 'run 1' as dag_run_id, loaded as loaded_at, 0.95 as fact_recall, null::float as invention,
    n % 40 + 3 as caption_words, case n % 997 when 3 then array['unrelated_sources'] when 4 then array['verbatim'] else '{}' end as flags,
    case n % 500 when 6 then 2 else 1 end as beam, case n % 500 when 6 then array['truncated'] end as rescued_from, why,
    case n % 500 when 7 then 'cc-by-2.0' end as license
from made;
