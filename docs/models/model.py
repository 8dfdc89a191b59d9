#!/usr/bin/env python3
"""Exhaustive model: two logs, checkpoints, two header copies, crashes everywhere, recovery that crashes.

A log is (base, entries, d): entries[0] has LSN base (= the durable floor), the first d entries are durable.
 ('P', csn, mask, claim)  a part; claim = CSN known durable when it was written (evidence)
 ('E', epoch, prev)       an epoch begins behind CSN prev
 ('C', k, c, rel)         checkpoint k covers all <= c; records below LSN rel may go
CSN = epoch*100 + n.  A header value is (seq, c, next, epoch, content); content = tuple of CSNs in the root.
A slot is (disk, cache, stuck): cache None = clean; stuck = a failed sync: readable, never becomes durable by a sync.
WAL guarantees taken as given (they are its own invariants): a crash leaves a prefix >= d; open makes it durable.
"""
import sys, time, collections, random

class Cfg:
    def __init__(s, commits=3, ckpts=2, crashes=2, fails=1, damage=0, muts=(), masks=(1,2,3), loaddamage=False):
        s.commits, s.ckpts, s.crashes, s.fails, s.damage, s.muts, s.masks = commits, ckpts, crashes, fails, damage, frozenset(muts), masks

S = collections.namedtuple('S', 'logs slots dead nodata ph hist acked ncom nck ncr nf dmg epmax')
# ph: phase tuple.  dead: root seqs whose pages were overwritten.  nodata: root seqs whose data is not durable yet.

def succ(x, nxt, epochs):
    """The CSN that follows x; nxt = what follows unless a later epoch began behind x."""
    best = nxt
    for (ep, prev) in epochs:
        if prev == x and ep*100+1 > best: best = ep*100+1
    return best

def scan(log, muts):
    base, ent, d = log
    parts, epochs, rel = {}, [], 0
    claims = 0
    relc = 0
    for e in ent:
        if e[0] == 'P':
            parts[e[1]] = e[2]; claims = max(claims, e[3])
        elif e[0] == 'E':
            epochs.append((e[1], e[2]))
            if 'no_epoch_cut' not in muts:
                for c in [c for c in parts if c > e[2]]: del parts[c]
        else:
            if e[3] <= base: relc = max(relc, e[2])
    return parts, epochs, claims, relc

def choose(slots, logs, muts):
    seen = []
    for (disk, cache, stuck) in slots:
        v = cache if cache is not None else disk
        if v is not None and v != 'X': seen.append(v)
    if not seen: return None, 'no header'
    h = max(seen)
    if 'fallback_blind' not in muts:
        for l in logs:
            if scan(l, muts)[3] > h[1]: return None, 'log starts above the header'
    return h, None

def findn(h, logs, muts):
    """N, the CSNs to replay, or why it is corrupt."""
    sc = [scan(l, muts) for l in logs]
    epochs = sorted(set(sc[0][1] + sc[1][1]))
    claims = max(sc[0][2], sc[1][2])
    x, nxt = h[1], h[2]
    replay = []
    if 'validate_released' in muts:
        # validates every part that is there, also those at or below c
        for i in (0, 1):
            for c, m in sc[i][0].items():
                if m == 3 and c not in sc[1-i][0] and c <= h[1]:
                    return None, None, None, 'a participant looks missing at or below c'
    while True:
        y = succ(x, nxt, epochs)
        masks = [sc[i][0].get(y) for i in (0, 1)]
        m = masks[0] or masks[1]
        if m is None: break
        whole = all(masks[i] is not None for i in (0, 1) if m >> i & 1)
        if not whole and 'no_participants' not in muts: break
        replay.append(y); x, nxt = y, y+1
    if 'gaps_ok' in muts:   # every complete transaction, without the prefix rule
        allc = sorted(set(sc[0][0]) | set(sc[1][0]))
        replay = [c for c in allc if c > h[1] and all(sc[i][0].get(c) is not None
                  for i in (0,1) if (sc[0][0].get(c) or sc[1][0].get(c)) >> i & 1)]
        x = replay[-1] if replay else h[1]
    if 'no_evidence' not in muts and claims > x: return None, None, None, 'stated to be durable, and missing'
    last_prev = max([p for (_, p) in epochs], default=0)
    if 'no_evidence' not in muts and last_prev > x: return None, None, None, 'an ended epoch is incomplete'
    top = max([e for (e, _) in epochs] + [h[3]])
    return x, tuple(replay), top, None

def newseq(st, chosen, m):
    """Above every sequence that anything states, and in the other slot than the root in use."""
    if 'seq_again' in m: return chosen + 1
    top = max([chosen] + [e[1] for l in st.logs for e in l[1] if e[0] == 'C'] + [v[0] for s in st.slots for v in s[:2] if v not in (None, 'X')]) + 1
    return top if top % 2 != chosen % 2 else top + 1

def keep(l, c, rel, m):
    """An epoch that begins at or behind c stays: it says which CSN follows c, and which epochs are taken."""
    if 'release_epoch' in m: return rel
    at = [l[0] + j for j, e in enumerate(l[1]) if e[0] == 'E' and e[2] >= c]
    return min([rel] + at)

def durable_csn(st, muts, hist):
    """Largest CSN such that all parts of all CSNs up to it are durable (per log: durable prefix)."""
    pend = []
    for l in st.logs:
        base, ent, d = l
        for e in ent[d:]:
            if e[0] == 'P': pend.append(e[1])
    lo = min(pend) if pend else None
    r = 0
    for c in hist:
        if lo is not None and c >= lo: break
        r = c
    return r

def initial():
    e0, e1 = (('E', 1, 0),), (('E', 1, 0),)
    h = (0, 0, 101, 1, ())
    return S(((0, e0, 1), (0, e1, 1)), ((h, None, False), (None, None, False)), frozenset(), frozenset(),
             ('open', 1, 101, (0, 0), None, frozenset(), False), (), 0, 0, 0, 0, 0, 0, 1)
# open: (tag, epoch, next, (root seq, c), ckpt, reusable roots, poisoned)

class Bad(Exception): pass

def check(st, content, why):
    hist, acked = st.hist, st.acked
    if content != hist[:len(content)]: raise Bad(f'{why}: content {content} is no prefix of {hist}')
    owed = [c for c in hist if c <= acked]
    if len(content) < len(owed): raise Bad(f'{why}: acknowledged up to {acked}, recovered {content} of {hist}')

def crash_states(st, power):
    """All states that a crash leaves."""
    outs = []
    def prefixes(l):
        base, ent, d = l
        for p in range(d, len(ent)+1):
            # the claim of the process is gone; after a kill what is there is not durable yet
            yield (base, ent[:p], p if power else d)
    def slots(s):
        disk, cache, stuck = s
        if not power: yield s; return
        if cache is None: yield s; return
        # the same bytes over the same bytes don't tear
        for v in ((cache,) if disk == cache else (disk, 'X', cache)): yield (v, None, False)
    def nod():
        # data of a header that was written before its data was synced
        if not st.nodata: yield frozenset(), st.dead; return
        if not power: yield st.nodata, st.dead; return
        yield frozenset(), st.dead
        yield frozenset(), st.dead | st.nodata
    for a in prefixes(st.logs[0]):
        for b in prefixes(st.logs[1]):
            for x in slots(st.slots[0]):
                for y in slots(st.slots[1]):
                    for nd, dead in nod():
                        outs.append(st._replace(logs=(a, b), slots=(x, y), nodata=nd, dead=dead, ph=('down',), ncr=st.ncr+1))
    return outs

def put(t, i, v): return t[:i] + (v,) + t[i+1:]
def app(l, e): return (l[0], l[1] + (e,), l[2])
def syn(l): return (l[0], l[1], len(l[1]))

def steps(st, cfg):
    m = cfg.muts
    out = []
    ph = st.ph
    if ph[0] == 'down':
        if st.dmg < cfg.damage and all(s[1] is None for s in st.slots):
            for i in (0, 1):
                if st.slots[i][0] not in (None, 'X'):
                    out.append(('damage header %d' % i, st._replace(slots=put(st.slots, i, ('X', None, False)), dmg=st.dmg+1)))
        h, why = choose(st.slots, st.logs, m)
        if h is None:
            if st.dmg == 1: return out
            raise Bad('refused without damage: ' + why)
        n, replay, top, why = findn(h, st.logs, m)
        if n is None:
            if st.dmg == 1: return out
            raise Bad('refused without damage: ' + why)
        if 'n_before_establish' in m: out.append(('examine', st._replace(ph=('rec', 0, h[0], (n, replay, top)))))
        else: out.append(('examine', st._replace(ph=('rec', 0, h[0], None))))
        return out
    if ph[0] == 'rec':
        _, step, hseq, early = ph
        def cr(s): 
            return [] if s.ncr >= cfg.crashes else [('kill', x) for x in crash_states(s, False)] + [('cut', x) for x in crash_states(s, True)]
        out += cr(st)
        nx = lambda s, k: s._replace(ph=('rec', k, hseq, early))
        if step == 0: out.append(('establish 0', nx(st._replace(logs=put(st.logs, 0, syn(st.logs[0]))), 1)))
        elif step == 1 and 'epoch_before_establish' in m:
            h, why = choose(st.slots, st.logs, m)
            n, replay, top, why = findn(h, st.logs, m)
            if n is None: raise Bad('refused in the middle: ' + why)
            out.append(('epoch 0 first', nx(st._replace(logs=put(st.logs, 0, syn(app(st.logs[0], ('E', top+1, n))))), 20)))
        elif step == 20: out.append(('establish 1', nx(st._replace(logs=put(st.logs, 1, syn(st.logs[1]))), 2)))
        elif step == 1: out.append(('establish 1', nx(st._replace(logs=put(st.logs, 1, syn(st.logs[1]))), 2)))
        elif step in (2, 3):
            i = hseq % 2
            disk, cache, stuck = st.slots[i]
            v = cache if cache is not None else disk
            stated = any(e[0] == 'C' and e[1] == hseq for l in st.logs for e in l[1])
            if step == 2 and ('header_trusted' in m or (stated or hseq == 0) and 'rewrite_always' not in m): out.append(('trust', nx(st, 4)))
            elif step == 2: out.append(('rewrite header', nx(st._replace(slots=put(st.slots, i, (disk, v, False))), 3)))
            else: out.append(('sync header', nx(st._replace(slots=put(st.slots, i, (v, None, False))), 4)))
        else:
            i = hseq % 2
            v = st.slots[i][1] if st.slots[i][1] is not None else st.slots[i][0]
            h = v
            n, replay, top, why = findn(h, st.logs, m)
            if early is not None: n, replay, top = early
            if n is None:
                if st.dmg == 1: return []
                raise Bad('refused in the middle: ' + why)
            ep = max(top, st.epmax if 'x' in m else top) + 1
            if step == 4:
                if 'no_epoch_record' in m: out.append(('no epoch', nx(st, 8)))
                else: out.append(('epoch 0', nx(st._replace(logs=put(st.logs, 0, app(st.logs[0], ('E', ep, n)))), 5)))
            elif step == 5: out.append(('sync 0', nx(st._replace(logs=put(st.logs, 0, syn(st.logs[0]))), 8 if 'epoch_one_log' in m else 6)))
            elif step == 6:
                # the same epoch as in log 0
                ep2 = max(e[1] for e in st.logs[0][1] if e[0] == 'E')
                out.append(('epoch 1', nx(st._replace(logs=put(st.logs, 1, app(st.logs[1], ('E', ep2, n)))), 7)))
            elif step == 7: out.append(('sync 1', nx(st._replace(logs=put(st.logs, 1, syn(st.logs[1]))), 8)))
            elif step == 8:
                if h[0] in st.dead: 
                    raise Bad('opened a root whose pages are overwritten or never arrived')
                content = h[4] + tuple(replay)
                check(st, content, 'open')
                if 'no_participants' in m:
                    sc = [scan(l, m)[0] for l in st.logs]
                    for c in replay:
                        mk = sc[0].get(c) or sc[1].get(c)
                        if any(mk >> i & 1 and c not in sc[i] for i in (0, 1)): raise Bad('half a transaction')
                if 'no_epoch_record' in m:
                    epn = top
                    nxt = (n if n // 100 == epn else epn*100) + 1
                else:
                    epn = max(e[1] for l in st.logs for e in l[1] if e[0] == 'E'); nxt = epn*100+1
                if not 'no_epoch_record' in m and epn <= st.epmax: raise Bad('an epoch came twice')
                # pages of older roots are free, but not for use before every log is released to c
                rels = [scan(l, m)[3] >= h[1] for l in st.logs]
                older = frozenset(range(h[0]))
                ck0 = None
                if h[0] == 0: older = frozenset()
                elif not all(rels) and 'reuse_unreleased' not in m:
                    older = frozenset()
                    L = []
                    for l in st.logs:
                        idx = [j for j, e in enumerate(l[1]) if e[0] == 'P' and e[1] in replay]
                        L.append(keep(l, h[1], l[0] + (idx[0] if idx else len(l[1])), m))
                    ck0 = (4, h[1], h[2], tuple(L), h[4], h[0])
                out.append(('expose', st._replace(ph=('open', epn, nxt, (h[0], h[1]), ck0, older, False), hist=content,
                            acked=content[-1] if content else 0, epmax=epn, dmg=st.dmg+10 if st.dmg == 1 else st.dmg)))
        return out
    # open
    _, ep, nxt, root, ck, reus, poison = ph
    hist = st.hist
    def op(s, **k):
        f = dict(ep=ep, nxt=nxt, root=root, ck=ck, reus=reus, poison=poison); f.update(k)
        return s._replace(ph=('open', f['ep'], f['nxt'], f['root'], f['ck'], f['reus'], f['poison']))
    def ack(s):
        d = durable_csn(s, m, s.hist)
        if 'ack_own' in m:
            und = set()
            for l in s.logs:
                for e in l[1][l[2]:]:
                    if e[0] == 'P': und.add(e[1])
            own = [c for c in s.hist if c not in und]
            d = max([d] + own)
        return s._replace(acked=max(s.acked, d))
    if st.ncr < cfg.crashes:
        out += [('kill', x) for x in crash_states(st, False)] + [('cut', x) for x in crash_states(st, True)]
    if st.ncom < cfg.commits:
        claim = durable_csn(st, m, hist)
        for mask in cfg.masks:
            logs = st.logs
            for i in (0, 1):
                if mask >> i & 1: logs = put(logs, i, app(logs[i], ('P', nxt, mask, claim)))
            out.append(('commit %d mask %d' % (nxt, mask), op(st._replace(logs=logs, hist=hist + (nxt,), ncom=st.ncom+1), nxt=nxt+1)))
    for i in (0, 1):
        if st.logs[i][2] < len(st.logs[i][1]):
            out.append(('sync %d' % i, ack(op(st._replace(logs=put(st.logs, i, syn(st.logs[i])))))))
    if ck is None:
        last = hist[-1] if hist else 0
        if st.nck < cfg.ckpts and not poison and last > root[1]:
            L = tuple(keep(l, last, l[0] + len(l[1]), m) for l in st.logs)
            out.append(('freeze', op(st._replace(nck=st.nck+1), ck=(1, last, nxt, L, hist, newseq(st, root[0], m)))))
        return out
    step, c, cn, L, content, k = ck
    i = k % 2
    hv = (k, c, cn, ep, content)
    slot = st.slots[i]
    go = lambda s, n, **kw: op(s, ck=(n, c, cn, L, content, k), **kw)
    if step == 1:
        if 'ckpt_ahead' in m or durable_csn(st, m, hist) >= c:
            dead = st.dead | reus
            if 'reuse_early' in m: dead = dead | ({root[0]-1} if root[0] >= 1 else set()) | {root[0]}
            out.append(('write data', go(st._replace(dead=frozenset(dead - {k})), 2)))
    elif step == 2:
        s = st._replace(slots=put(st.slots, i, (slot[0], hv, False)))
        if 'publish_early' in m: s = s._replace(nodata=st.nodata | {k})
        if 'both_headers' in m:
            o = s.slots[1-i]
            s = s._replace(slots=put(s.slots, 1-i, (o[0], hv, False)))
        if 'release_early' in m: out.append(('header', go(s, 4)))
        else: out.append(('header', go(s, 3)))
    elif step == 3:
        s = st._replace(slots=tuple((x[1], None, False) if x[1] is not None and (j == i or 'both_headers' in m) else x for j, x in enumerate(st.slots)),
                        nodata=st.nodata - {k})
        out.append(('header synced', go(s, 4)))
        if st.nf < cfg.fails and 'both_headers' not in m:
            f = st._replace(nf=st.nf+1, slots=put(st.slots, i, (slot[0], slot[1], True)))
            if 'retry_header' in m: out.append(('header sync fails, retried', go(f, 9)))
            elif 'retry_other' in m:
                o = f.slots[1-i]
                out.append(('header sync fails, other copy', go(f._replace(slots=put(f.slots, 1-i, (o[0], hv, False))), 10)))
            else: out.append(('header sync fails', op(f, ck=None, poison=True)))
    elif step == 9:  # mutation: the retried sync succeeds without writing
        out.append(('retried sync', go(st, 4)))
    elif step == 10:
        o = st.slots[1-i]
        out.append(('other copy synced', go(st._replace(slots=put(st.slots, 1-i, (o[1], None, False))), 4)))
    elif step in (4, 5, 6, 7, 8, 11):
        j = 0 if step in (4, 5, 6) else 1
        a, b_, c_ = (4, 5, 6) if j == 0 else (7, 8, 11)
        l = st.logs[j]
        rel = L[j]
        if 'release_all' in m: rel = l[0] + len(l[1])
        if step == a: out.append(('C record %d' % j, go(st._replace(logs=put(st.logs, j, app(l, ('C', k, c, rel)))), b_)))
        elif step == b_: out.append(('C synced %d' % j, ack(go(st._replace(logs=put(st.logs, j, syn(l))), c_))))
        else:
            drop = max(0, rel - l[0])
            nl = (l[0]+drop, l[1][drop:], max(0, l[2]-drop))
            s = st._replace(logs=put(st.logs, j, nl))
            if j == 0: out.append(('released 0', go(s, 7)))
            else:
                newreus = frozenset(range(k))
                out.append(('released 1', op(s, ck=None, root=(k, c), reus=frozenset(newreus))))
    return out

def explore(cfg, limit=6_000_000, quiet=False):
    t = time.time()
    init = initial()
    parent = {init: None}
    q = collections.deque([init])
    n = edges = 0
    opens = 0
    while q:
        st = q.popleft(); n += 1
        try:
            nxt = steps(st, cfg)
        except Bad as bad:
            path, s = [], st
            while parent[s] is not None:
                s, name = parent[s]; path.append(name)
            return dict(result='VIOLATION', why=str(bad), states=len(parent), trace=path[::-1], secs=time.time()-t)
        if not nxt and st.ph[0] == 'open' and st.ncr < cfg.crashes: pass
        for name, s in nxt:
            edges += 1
            if name == 'expose': opens += 1
            if s not in parent:
                parent[s] = (st, name); q.append(s)
        if len(parent) > limit:
            return dict(result='LIMIT', states=len(parent), edges=edges, opens=opens, secs=time.time()-t)
    return dict(result='ok', states=len(parent), edges=edges, opens=opens, secs=time.time()-t)

def search(cfg, limit=20_000_000):
    t = time.time(); init = initial()
    seen = {hash(init)}; stack = [init]; edges = opens = 0
    while stack:
        st = stack.pop()
        try: nxt = steps(st, cfg)
        except Bad as bad: return dict(result='VIOLATION', why=str(bad), states=len(seen), secs=time.time()-t)
        for name, s in nxt:
            edges += 1; opens += name == 'expose'
            h = hash(s)
            if h not in seen: seen.add(h); stack.append(s)
        if len(seen) > limit: return dict(result='LIMIT', states=len(seen), edges=edges, opens=opens, secs=time.time()-t)
    return dict(result='ok', states=len(seen), edges=edges, opens=opens, secs=time.time()-t)

def walk(cfg, runs, seed, length=80):
    rnd = random.Random(seed); opens = 0; t = time.time(); nsteps = 0
    for r in range(runs):
        st = initial(); trace = []
        for _ in range(length):
            try: nx = steps(st, cfg)
            except Bad as bad:
                return dict(result='VIOLATION', why=str(bad), trace=trace, runs=r)
            if not nx: break
            # crashes are many: take one kind at a time
            kinds = collections.defaultdict(list)
            for name, s in nx: kinds[name.split(' ')[0] if name in ('kill','cut') else name].append((name, s))
            names = sorted(kinds)
            w = [1 if x in ('kill','cut') else 6 for x in names]
            name, st = rnd.choice(kinds[rnd.choices(names, w)[0]])
            trace.append(name); nsteps += 1; opens += name == 'expose'
    return dict(result='ok', runs=runs, opens=opens, steps=nsteps, secs=time.time()-t)

if __name__ == '__main__':
    pass
