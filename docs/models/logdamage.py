from model import *
def run(cfg, limit):
    init = initial(); seen = {hash(init)}; stack = [init]; cnt = {True: collections.Counter(), False: collections.Counter()}
    while stack and len(seen) < limit:
        st = stack.pop()
        for name, s in steps(st, cfg):
            h = hash(s)
            if h in seen: continue
            seen.add(h); stack.append(s)
            if s.ph[0] == 'down' and name == 'cut':
                for i in (0, 1):
                    b, e, d = s.logs[i]
                    for p in range(0, d):
                        logs = put(s.logs, i, (b, e[:p], p))
                        for ev in (True, False):
                            m = frozenset() if ev else frozenset(['no_evidence'])
                            hd, why = choose(s.slots, logs, m)
                            if hd is None: cnt[ev]['refused'] += 1; continue
                            n, rep, top, why = findn(hd, logs, m)
                            if n is None: cnt[ev]['refused'] += 1; continue
                            content = hd[4] + tuple(rep)
                            owed = [c for c in s.hist if c <= s.acked]
                            ok = content == s.hist[:len(content)] and len(content) >= len(owed)
                            cnt[ev]['full' if ok else 'silent loss'] += 1
    return len(seen), cnt
print(run(Cfg(commits=3, ckpts=1, crashes=1, fails=0), 400000))
