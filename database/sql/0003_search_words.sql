-- migrate:up
CREATE FUNCTION section_letters() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '\u0E01-\u0E30\u0E32\u0E33\u0E40-\u0E46\u0E81-\u0EB0\u0EB2\u0EB3\u0EBD-\u0EC6\u0EDC-\u0EDF\u1000-\u102A'
        || '\u103F\u1050-\u1055\u105A-\u105D\u1061\u1065\u1066\u106E-\u1070\u1075-\u1081\u108E\u1100-\u11FF\u1780-\u17B3'
        || '\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303B\u303C\u3041-\u3096\u309D-\u309F\u30A1-\u30FA\u30FC-\u30FF'
        || '\u3105-\u312F\u31A0-\u31BF\u31F0-\u31FF\u3400-\u4DBF\u4E00-\u9FFF\uA960-\uA97F\uAC00-\uD7FB\uF900-\uFAFF'
        || '\uFF66-\uFFDC\U00020000-\U0003FFFF';
COMMENT ON FUNCTION section_letters IS
    'The letters of Chinese, Japanese, Korean, Thai, Lao, Burmese and Khmer, for a bracket of a regular expression';

CREATE FUNCTION section_signs() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '\u0E31\u0E34-\u0E3A\u0E47-\u0E4E\u0EB1\u0EB4-\u0EBC\u0EC8-\u0ECF\u102B-\u103E\u1056-\u1059\u105E-\u1060'
        || '\u1062-\u1064\u1067-\u106D\u1071-\u1074\u1082-\u108D\u108F\u17B4-\u17D3';
COMMENT ON FUNCTION section_signs IS
    'Signs that belong to the letter before: vowels and tones of Thai, Lao, Burmese and Khmer';

CREATE FUNCTION section_separators() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '[\u0080-\u00A9\u00AB-\u00B1\u00B4\u00B6-\u00B8\u00BB\u00BF\u00D7\u00F7\u037E\u0387\u055A-\u055F\u0589'
        || '\u058A\u05BE\u05C0\u05C3\u05F3\u05F4\u060C\u061B\u061F\u066A-\u066D\u06D4\u0964\u0965\u0E4F\u0E5A\u0E5B'
        || '\u0F04-\u0F14\u104A-\u104F\u10FB\u1361-\u1368\u17D4-\u17DA\u1800-\u180A\u2000-\u200B\u200E-\u206F'
        || '\u20A0-\u20FF\u2190-\u245F\u2500-\u2BFF\u2E00-\u2E7F\u3000-\u3004\u3008-\u3020\u302A-\u3030\u303D-\u303F'
        || '\u309B\u309C\u30A0\u30FB\uE000-\uF8FF\uFE00-\uFE1F\uFE30-\uFE6F\uFEFF\uFF00-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40'
        || '\uFF5B-\uFF65\uFFE0-\uFFFF'
        || '\U0001F000-\U0001FAFF\U000E0000-\U0010FFFF]';
COMMENT ON FUNCTION section_separators IS
    'A regular expression for what stands between words, but is not ASCII: punctuation, symbols, emoji';

-- Of what section_tsvector calls, PL/pgSQL functions call nothing but PostgreSQL's own: an index on it is built, analyzed
-- and restored without the search_path of the user. The bodies of SQL functions are bound when they are made.
CREATE FUNCTION section_spaced(content text, letters text, signs text, separators text, pairs boolean) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    words text COLLATE "C" := content;
    -- Other forms of letters and digits, and letters in several parts. To ask for them is cheaper than to normalize.
    unusual CONSTANT text := '\u00AA\u00AD\u00B2\u00B3\u00B5\u00B9\u00BA\u00BC-\u00BE\u0300-\u036F\u0653-\u0655\u0958-\u095F'
        '\u0E33\u0E4D\u0EB3\u0ECD\u1100-\u11FF\u1F00-\u1FFF\u2070-\u209F\u2100-\u218F\u2460-\u24FF\u3099\u309A\u3131-\u318E'
        '\u3200-\u33FF\uA960-\uA97F\uD7B0-\uD7FB\uF900-\uFB4F\uFB50-\uFDFF\uFE70-\uFEFC\uFF10-\uFF19\uFF21-\uFF3A'
        '\uFF41-\uFF5A\uFF66-\uFFDC\U0001D400-\U0001D7FF\U0002F800-\U0002FA1F';
    unspaced text := '[' || letters || signs || ']';
    is_special boolean;
BEGIN
    IF octet_length(words) > length(words) THEN
        is_special := words ~ ('[' || unusual || letters || signs || ']');
        IF is_special AND words ~ ('[' || unusual || ']') THEN
            words := replace(normalize(words, NFKC), chr(173), '');
            -- NFKC takes these Thai and Lao vowels apart, of which each is one letter to those who write them.
            words := replace(words, U&'\0E4D\0E32', U&'\0E33');
            words := replace(words, U&'\0ECD\0EB2', U&'\0EB3');
        END IF;
        words := regexp_replace(words, separators, ' ', 'g');
        IF is_special THEN
            words := regexp_replace(words, unspaced || '+', CASE WHEN pairs THEN ' \& ' ELSE ' ' END, 'g');
        END IF;
        IF is_special AND pairs THEN
            words := regexp_replace(words, '(?<=' || unspaced || ')[' || letters || '][' || signs || ']*', '\& \&', 'g');
        END IF;
    END IF;
    RETURN replace(replace(replace(replace(words, '<', ' '), '/', ' '), '.', ' '), '-', ' ');
END
$$;

CREATE FUNCTION section_words(content text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN section_spaced(content, section_letters(), section_signs(), section_separators(), true);
COMMENT ON FUNCTION section_words IS
    'A text with spaces between its words. PostgreSQL''s parser would take a/b for a file, a.b for a host, a-1 for a '
    'negative number and all behind < for a tag, and a search for b would not find it; in a C locale it takes all that is '
    'not ASCII for letters. Where a script has no spaces, each letter becomes a word together with the next one, the last '
    'of a run alone: such pairs, side by side, find any part of the text';

CREATE FUNCTION section_fitted(language text, title text, headings text, body text) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE -- before PostgreSQL 17, no subtransactions in parallel workers
    AS $$
DECLARE
    configuration regconfig := language;
    above tsvector := setweight(to_tsvector(configuration, title), 'A')
        || setweight(to_tsvector(configuration, headings), 'B');
    size integer;
BEGIN
    -- Words of that size never make 1 MB, positions included.
    IF octet_length(body) <= 200000 THEN
        RETURN above || to_tsvector(configuration, body);
    END IF;
    size := length(body);
    LOOP
        BEGIN
            RETURN above || to_tsvector(configuration, left(body, size));
        EXCEPTION WHEN program_limit_exceeded THEN
            size := size * 3 / 4;
        END;
    END LOOP;
END
$$;

CREATE FUNCTION section_tsvector(language text, title text, headings text, body text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL UNSAFE
    RETURN section_fitted(language, section_words(left(coalesce(title, ''), 1000)),
        section_words(left(coalesce(headings, ''), 4000)), section_words(left(coalesce(body, ''), 1000000)));
COMMENT ON FUNCTION section_tsvector IS
    'The words of a section: those of the title with weight A, of the headings with B, of the body with D, of as much of '
    'it as fits: PostgreSQL refuses a tsvector over 1 MB. language names a text search configuration';

CREATE FUNCTION section_term(language text, term text) RETURNS tsquery
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    configuration regconfig := language;
    words text COLLATE "C" := btrim(section_words(term));
    begins boolean := term LIKE '%*';
    beginning text;
    found tsquery;
BEGIN
    -- Where a word ends is not seen in such a script: the last letter goes on in the text.
    IF right(words, 1) ~ ('[' || section_letters() || section_signs() || ']') THEN
        IF words ~ ('[' || section_letters() || section_signs() || '] \S+$') THEN
            words := regexp_replace(words, ' \S+$', '');
        ELSE
            begins := true;
        END IF;
    END IF;
    IF NOT begins THEN
        found := phraseto_tsquery(configuration, words);
        RETURN CASE WHEN numnode(found) > 0 THEN found END;
    END IF;
    words := rtrim(words, E' \t\n\r*');
    beginning := substring(words FROM '\S+$');
    IF beginning IS NULL THEN
        RETURN NULL;
    END IF;
    words := left(words, length(words) - length(beginning));
    beginning := '''' || replace(replace(beginning, '\', '\\'), '''', '''''') || ''':*';
    found := to_tsquery(configuration, beginning);
    IF numnode(found) = 0 THEN -- "the", the beginning of "theatre"
        found := to_tsquery('simple', beginning);
    END IF;
    IF words <> '' THEN
        found := phraseto_tsquery(configuration, words) <-> found;
    END IF;
    RETURN CASE WHEN numnode(found) > 0 THEN found END;
END
$$;
COMMENT ON FUNCTION section_term IS
    'What finds a term in a section_tsvector: a word or several side by side; with * behind it, words that begin so. '
    'NULL where it holds nothing but stop words';

CREATE FUNCTION section_query(language text, alternatives text[], demanded text[], excluded text[]) RETURNS tsquery
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET client_min_messages = warning -- a NOTICE for each stop word otherwise
    BEGIN ATOMIC
        SELECT (coalesce(required, wanted) || coalesce(forbidden, ''))::tsquery
          FROM (SELECT string_agg('(' || term || ')', ' & ') FILTER (WHERE kind = 1) AS required,
                       '(' || string_agg('(' || term || ')', ' | ') FILTER (WHERE kind = 2) || ')' AS wanted,
                       string_agg(' & !(' || term || ')', '') FILTER (WHERE kind = 3) AS forbidden
                  FROM (SELECT 1 AS kind, section_term(language, word)::text AS term FROM unnest(demanded) AS word
                        UNION ALL
                        SELECT 2, section_term(language, word)::text FROM unnest(alternatives) AS word
                        UNION ALL
                        SELECT 3, section_term(language, word)::text FROM unnest(excluded) AS word) AS terms) AS combined;
    END;
COMMENT ON FUNCTION section_query IS
    'All demanded terms, or where there are none, any of the alternatives; and none of the excluded. '
    'NULL, which finds nothing, where nothing is left without stop words';

CREATE FUNCTION section_lexemes(language text, terms text[], counts integer[])
    RETURNS TABLE (lexeme text, begins boolean, count bigint)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 5 SET client_min_messages = warning
    BEGIN ATOMIC
        SELECT replace(replace(part[1], '''''', ''''), '\\', '\'), part[2] IS NOT NULL, sum(term.count)
          FROM unnest(terms, counts) AS term (word, count)
         CROSS JOIN regexp_matches(section_term(language, term.word)::text, '''((?:[^'']|'''')+)''(:\*)?', 'g')
                    AS part
         GROUP BY 1, 2;
    END;
COMMENT ON FUNCTION section_lexemes IS
    'The lexemes that terms consist of, how often each was asked for, and whether it stands for all that begin with it';

CREATE FUNCTION section_marks(language text, body text, terms text[]) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    configuration regconfig := language;
    words text COLLATE "C" := lower(section_spaced(body, section_letters(), section_signs(), section_separators(), false));
    latin_letter text := CASE WHEN octet_length(words) > length(words) THEN '|[\u00C0-\u024F]' ELSE '' END;
    any_letter boolean := language IN ('arabic', 'indonesian', 'irish', 'tamil', 'yiddish'); -- prefixes are no part of stems
    lexemes text[] := tsvector_to_array(to_tsvector(configuration, section_words(array_to_string(terms, ' '))));
    beginnings text[] := (
        SELECT array_agg(DISTINCT substring(beginning FROM '\S+$'))
          FROM unnest(terms) AS term
         CROSS JOIN LATERAL unnest(lower(btrim(section_words(term), ' *'))
                    || tsvector_to_array(to_tsvector(configuration, section_words(term)))) AS beginning
         WHERE term LIKE '%*' AND beginning <> '');
    candidate text := (
        SELECT string_agg(DISTINCT
                   CASE
                       WHEN any_letter THEN '[^ ]'
                       WHEN first BETWEEN '0' AND 'z' THEN first
                       WHEN first BETWEEN U&'\0370' AND U&'\03FF' THEN '[\u0370-\u03FF\u1F00-\u1FFF]'
                       WHEN first = U&'\0435' THEN '[\u0435\u0451]'
                       ELSE first
                   END || CASE
                       WHEN any_letter OR second = '' THEN ''
                       WHEN second = 'i' THEN '[iy\u0080-\U0010FFFF]'
                       WHEN second BETWEEN '0' AND 'z' THEN '[' || second || '\u0080-\U0010FFFF]'
                       ELSE '[\u0080-\U0010FFFF]'
                   END || CASE WHEN first BETWEEN 'a' AND 'z' AND configuration <> 'english'::regconfig
                               THEN latin_letter ELSE '' END, '|')
          FROM (SELECT left(part, 1) COLLATE "C" AS first, substr(part, 2, 1) COLLATE "C" AS second
                  FROM unnest(lexemes || beginnings) AS part) AS letters
         WHERE first ~ '[[:alnum:]\u0080-\U0010FFFF]' AND first !~ ('[' || section_letters() || section_signs() || ']'));
BEGIN
    -- To take all words to their stems would take five times as long: only those that begin like a stem can have it.
    RETURN (
        SELECT coalesce(array_agg(word), '{}')
          FROM (SELECT DISTINCT part[1] AS word
                  FROM regexp_matches(words, '(?:^|[\x01-/:-@\[-`{-\x7F])((?:' || candidate || ')[^\x01-/:-@\[-`{-\x7F]*)',
                                      'g') AS part) AS candidates
         WHERE tsvector_to_array(to_tsvector(configuration, word)) && lexemes
            OR EXISTS (SELECT FROM unnest(beginnings) AS beginning WHERE starts_with(word, beginning)));
END
$$;
COMMENT ON FUNCTION section_marks IS
    'The words of body, in small letters, that have the stem of one of the terms, or one of their beginnings. Without those '
    'of scripts without spaces: they are compared letter by letter, which the client does';

-- migrate:down
DROP FUNCTION section_marks;
DROP FUNCTION section_lexemes;
DROP FUNCTION section_query;
DROP FUNCTION section_term;
DROP FUNCTION section_tsvector;
DROP FUNCTION section_fitted;
DROP FUNCTION section_words;
DROP FUNCTION section_spaced;
DROP FUNCTION section_separators;
DROP FUNCTION section_signs;
DROP FUNCTION section_letters;
