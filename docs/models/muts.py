from model import *
import sys
muts = {
 'ack_own': dict(commits=2,ckpts=0,crashes=1),
 'no_participants': dict(commits=2,ckpts=0,crashes=1),
 'gaps_ok': dict(commits=2,ckpts=0,crashes=1),
 'validate_released': dict(commits=2,ckpts=1,crashes=1),
 'no_epoch_record': dict(commits=3,ckpts=0,crashes=2),
 'no_epoch_cut': dict(commits=3,ckpts=0,crashes=2),
 'epoch_one_log': dict(commits=3,ckpts=0,crashes=2),
 'n_before_establish': dict(commits=2,ckpts=0,crashes=3),
 'release_early': dict(commits=2,ckpts=1,crashes=1),
 'release_all': dict(commits=2,ckpts=1,crashes=1),
 'both_headers': dict(commits=2,ckpts=2,crashes=1),
 'reuse_early': dict(commits=2,ckpts=2,crashes=1),
 'fallback_blind': dict(commits=2,ckpts=1,crashes=1,damage=1),
 'header_trusted': dict(commits=3,ckpts=2,crashes=2,fails=1),
 'publish_early': dict(commits=2,ckpts=1,crashes=1),
 'ckpt_ahead': dict(commits=2,ckpts=1,crashes=1),
 'retry_header': dict(commits=2,ckpts=1,crashes=1),
 'retry_other': dict(commits=2,ckpts=2,crashes=1),
 'epoch_before_establish': dict(commits=2,ckpts=0,crashes=3),
 'reuse_unreleased': dict(commits=2,ckpts=2,crashes=2,damage=1),
 'release_epoch': dict(commits=2,ckpts=1,crashes=2),
 'seq_again': dict(commits=2,ckpts=2,crashes=3,damage=1),
 'no_evidence': dict(commits=2,ckpts=1,crashes=2,damage=1),
}
which = sys.argv[1:] or list(muts)
for k in which:
    kw = dict(fails=1); kw.update(muts[k])
    r = explore(Cfg(muts=[k], **kw), limit=2_000_000)
    print(k, r['result'], r.get('why',''), r['states'], '%.0fs'%r['secs']);
    if 'trace' in r: print('     ', ' > '.join(r['trace']), flush=True)
