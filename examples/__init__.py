"""Small whole chats, each showing one side of chatkit_trio; see README.md beside this file."""
