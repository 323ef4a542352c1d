"""The running service: listeners, connections, workers and the master. The only place with sockets and processes.

serve     the word `winpop serve`: binds, then runs a master or (workers 0) one worker in this process
master    keeps N workers alive, and starts new ones when the settings of listeners change
worker    an event loop with all the connections that it accepted; watches the database for changes
housekeeping  what crashes left behind goes, and room is kept for a full disk
world     the parts that a worker works with, built by hand
connection, pop3, smtp      one connection: a pure session on one side, sockets and the store on the other
census    how many connections there are, in all workers together
"""
