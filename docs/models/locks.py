"""Wound-wait on row locks: every interleaving of transactions with scripts of keys; committing takes a step that can't be wounded.
Checked: one owner per key, no state without a step that isn't the end, a committed transaction owned all its keys."""
import itertools
def run(scripts, wound=True):
    n = len(scripts)
    # tx: (pc, state) state A active, C committing, E ended(committed), D doomed, X aborted; age = index
    init = (tuple((0, 'A') for _ in range(n)), ())   # owners: sorted tuple (key, tx)
    seen = {init}; q = [init]; ends = 0; outcomes = set()
    while q:
        txs, own = st = q.pop(); o = dict(own); out = []
        for i, (pc, s) in enumerate(txs):
            def put(x, o2): out.append((txs[:i] + (x,) + txs[i+1:], tuple(sorted(o2.items()))))
            if s == 'D':   # finds out at its next call: gives its locks back
                put((pc, 'X'), {k: v for k, v in o.items() if v != i}); continue
            if s == 'C': put((pc, 'E'), {k: v for k, v in o.items() if v != i}); continue
            if s != 'A': continue
            if pc == len(scripts[i]):
                if any(o.get(k) != i for k in scripts[i]): return 'VIOLATION: commits without its lock', st
                put((pc, 'C'), o); continue
            k = scripts[i][pc]; h = o.get(k)
            if h is None or h == i: put((pc+1, 'A'), {**o, k: i})
            elif txs[h][1] in 'DX': put((pc+1, 'A'), {**o, k: i})
            elif wound and i < h and txs[h][1] == 'A':
                t2 = list(txs); t2[h] = (t2[h][0], 'D'); t2[i] = (pc+1, 'A')
                out.append((tuple(t2), tuple(sorted({**o, k: i}.items()))))
            # else waits
        if not out:
            if any(s in 'ACD' for _, s in txs): return 'DEADLOCK', st
            ends += 1; outcomes.add(tuple(s for _, s in txs))
            if txs[0][1] != 'E': return 'VIOLATION: the oldest was aborted', st
        for s in out:
            if s not in seen: seen.add(s); q.append(s)
    return 'ok', len(seen), ends
tot = 0
for a in itertools.permutations('abc', 2):
    for b in itertools.permutations('abc', 2):
        for c in itertools.permutations('abc', 2):
            r = run((a, b, c)); assert r[0] == 'ok', (a, b, c, r); tot += r[1]
print('wound-wait: ok over', 6**3, 'script triples,', tot, 'states')
print('without the age rule:', run((('a','b'), ('b','a')), wound=False)[0])
