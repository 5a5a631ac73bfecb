"""The processes of the stages; read the files in this order.

worker.py          the loop of every worker: take, check age, hand over, count, beat
chain.py           the way of a frame through the stages of one worker
ordered.py         stages that see frames in order: progress, saved state, repeated answers
capture_worker.py  the loop of a source: lend slots, take frames back, resend after a death
in_flight.py       the frames in flight: which are resent, which are poison
pacing.py          when a live source takes its next image
reports.py         reports and log records to the supervisor; exit statuses
startup.py         the first and the last steps of the process
"""
