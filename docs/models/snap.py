"""Begin, read, commit (install then visible), freeze, publish, prune: every interleaving of two readers and one writer.
Every commit writes the one key, so the value at snapshot s is s. durable: what is visible lags behind what is installed."""
import collections, sys
# state: next, visible, installed, gens {id: frozenset}, active, view(gens, root), writer step, frozen c, readers
def run(durable, muts, commits=4, freezes=2):
    init = (1, 0, ((0, ()),), 0, ((0,), 0), ('idle',), 0, (('new',), ('new',)), 0)
    seen = {init}; q = [init]; reads = 0
    while q:
        nxt, vis, gens, act, view, w, fz, rd, nf = st = q.pop()
        g = dict(gens); out = []
        def mk(**k):
            f = dict(nxt=nxt, vis=vis, gens=tuple(sorted(g.items())), act=act, view=view, w=w, fz=fz, rd=rd, nf=nf); f.update(k)
            out.append(tuple(f[x] for x in ('nxt','vis','gens','act','view','w','fz','rd','nf')))
        live = [r[2] for r in rd if r[0] == 'open']
        if w == ('idle',):
            if nxt <= commits:
                t = nxt; vs = list(g[act])
                if len(vs) >= 1:
                    p = vs[-1]; keep = []
                    for i, v in enumerate(vs[:-1]):
                        upper = vs[i+1]
                        need = any(v <= s < upper for s in live) or (upper > vis and 'prune_blind' not in muts) or ('prune_gap' in muts and v <= vis < upper)
                        if 'prune_all' in muts: need = False
                        if need: keep.append(v)
                    vs = keep + [p]
                g2 = dict(g); g2[act] = tuple(vs) + (t,)
                mk(gens=tuple(sorted(g2.items())), w=('inst', t), nxt=t+1)
            if nf < freezes and fz == 0 and g[act]:
                c = nxt-1
                g2 = dict(g); g2[act+1] = ()
                if 'swap_unlocked' in muts: mk(gens=tuple(sorted(g2.items())), w=('swap', c), fz=c, nf=nf+1)
                else: mk(gens=tuple(sorted(g2.items())), act=act+1, view=((act+1,)+view[0], view[1]), fz=c, nf=nf+1)
        elif w[0] == 'inst': mk(w=('idle',), vis=vis if durable else max(vis, w[1]))
        if durable and vis < nxt-1: mk(vis=vis+1)
        if fz and vis >= fz: mk(view=((act,), fz), fz=0)         # published: root = c; c is durable, so visible
        elif fz and 'publish_undurable' in muts: mk(view=((act,), fz), fz=0)
        for i, r in enumerate(rd):
            def rdset(x): return rd[:i] + (x,) + rd[i+1:]
            if r[0] == 'new':
                if 'begin_unlocked' in muts: mk(rd=rdset(('half', view)))
                else: mk(rd=rdset(('open', view, vis)))
            elif r[0] == 'half': mk(rd=rdset(('open', r[1], vis)))
            elif r[0] == 'open':
                v, s = r[1], r[2]
                got = None
                for gid in v[0]:
                    c = [x for x in g.get(gid, ()) if x <= s]
                    if c: got = max(c); break
                if got is None: got = v[1]
                reads += 1
                if got != s: return 'VIOLATION', (r, got, st), len(seen)
                mk(rd=rdset(('done',)))
                
        for s in out:
            if s not in seen: seen.add(s); q.append(s)
    return 'ok', reads, len(seen)
for durable in (False, True):
    print('durable' if durable else 'committed', run(durable, ()))
    for m in ('prune_all', 'prune_blind', 'begin_unlocked', 'publish_undurable'):
        r = run(durable, (m,)); print('   ', m, r[0], r[2])
